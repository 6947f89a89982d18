"""A trial is a pure function of configuration, data and code: the same bits, however often it is interrupted."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from reid import methods
from reid.config import Augment, Optimiser, Protocol, Recipe, Sampler, Schedule, TrialConfig
from reid.data.augment import to_float
from reid.data.dataset import ReidData
from reid.methods.base import OWN, Method
from reid.train import DivergedError, Pixels, Resumption, TrialResult, build_method, embed, make_optimiser, score, train

GOLDEN = Path(__file__).parent.parent / "golden" / "losses.json"

RECIPE = Recipe(
    backbone="resnet10_w16",
    weights=None,
    image_size=(64, 32),
    sampler=Sampler(identities=4, images=2),
    augment=Augment(cutout=0.5, cutout_size=8, random_erasing=0.5, crop_padding=2),
    schedule=Schedule(epochs=4, time_scale=0.02),
)


def config(method: str = "bdb", **changes: object) -> TrialConfig:
    model = methods.config(method, **({"stripes": 4} if method == "han" else {}))  # its map has 4 rows here
    trial = TrialConfig(method=method, model=model, recipe=RECIPE)
    recipe = {name: changes.pop(name) for name in list(changes) if name in Recipe.__dataclass_fields__}
    return replace(trial, recipe=replace(RECIPE, **recipe), **changes)  # type: ignore[arg-type]


class KilledError(Exception):
    pass


def run(
    trial: TrialConfig, data: ReidData, *, state: Path | None = None, until: int = 99
) -> tuple[TrialResult, list[dict[str, float]]]:
    reports: list[dict[str, float]] = []

    def report(metrics: dict[str, float]) -> None:
        reports.append({name: value for name, value in metrics.items() if "seconds" not in name})
        if metrics["epoch"] >= until:
            raise KilledError

    resumption = Resumption(state, every=1, saved=lambda: None) if state else None
    return train(trial, data, report, resumption=resumption), reports


def same(one: TrialResult, other: TrialResult) -> bool:
    precisions = [[scores.average_precision for scores in result.retrieval.values()] for result in (one, other)]
    return one.metrics == other.metrics and np.array_equal(*precisions, equal_nan=True)


@pytest.mark.parametrize("method", methods.names())
def test_the_same_seed_gives_the_same_bits(method: str, tiny_data: ReidData) -> None:
    (first, losses), (second, again) = (run(config(method), tiny_data) for _ in range(2))
    assert losses == again
    assert same(first, second)
    _, others = run(config(method, seed=1), tiny_data)
    assert losses != others


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@pytest.mark.parametrize("evaluate_on", ["val", "test"])
def test_an_interrupted_trial_ends_as_if_nothing_had_happened(
    tmp_path: Path, tiny_data: ReidData, optimiser: str, evaluate_on: str
) -> None:
    trial = config(optimiser=Optimiser(name=optimiser), evaluate_on=evaluate_on)  # type: ignore[arg-type]
    whole, losses = run(trial, tiny_data)
    state = tmp_path / "state.safetensors"
    with pytest.raises(KilledError):
        run(trial, tiny_data, state=state, until=3)  # dies before the third state is written
    torch.manual_seed(123)  # another process would find another generator
    resumed, rest = run(trial, tiny_data, state=state)
    assert [line["epoch"] for line in rest] == [3, 4]
    assert rest == losses[2:]
    assert same(whole, resumed)


@pytest.mark.parametrize("method", methods.names())
def test_every_method_goes_on_where_it_was_stopped(tmp_path: Path, tiny_data: ReidData, method: str) -> None:
    trial = config(method, schedule=replace(RECIPE.schedule, epochs=2))
    whole, losses = run(trial, tiny_data)
    state = tmp_path / "state.safetensors"
    with pytest.raises(KilledError):
        run(trial, tiny_data, state=state, until=2)
    resumed, rest = run(trial, tiny_data, state=state)
    assert rest == losses[1:]
    assert same(whole, resumed)


def test_a_finished_state_is_only_scored_again(tmp_path: Path, tiny_data: ReidData) -> None:
    state = tmp_path / "state.safetensors"
    whole, _ = run(config(), tiny_data, state=state)
    again, rest = run(config(), tiny_data, state=state)
    assert rest == []
    assert same(whole, again)


def test_the_caller_s_random_numbers_are_left_alone(tiny_data: ReidData) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(config(), tiny_data)
    assert torch.equal(torch.rand(3), expected)
    assert not torch.are_deterministic_algorithms_enabled()


def test_reports_hold_every_loss_and_their_sum(tiny_data: ReidData) -> None:
    _, reports = run(config(evaluate_on="val"), tiny_data)
    for number, line in enumerate(reports, start=1):
        parts = [value for name, value in line.items() if name.startswith("loss/")]
        assert len(parts) == 4
        assert line["loss"] == pytest.approx(sum(parts), rel=1e-5)
        assert line["epoch"] == number
        assert 0 < line["val/mAP"] <= 1


def test_a_final_trial_reports_no_score_before_its_end(tiny_data: ReidData) -> None:
    """Selection by test score must not be possible: the numbers do not exist while it trains."""
    result, reports = run(config(), tiny_data)
    assert {name.split("/")[0] for line in reports for name in line} == {"epoch", "lr", "loss"}
    assert set(result.metrics) >= {"mAP", "mINP", "Rank-1", "num_valid", "num_skipped"}


def test_it_learns(tiny_data: ReidData) -> None:
    schedule = Schedule(epochs=12, time_scale=0.03)
    trained, _ = run(config("baseline", schedule=schedule, augment=Augment()), tiny_data)
    untrained, _ = run(config("baseline", schedule=replace(schedule, epochs=1, peak_lr=0.0)), tiny_data)
    assert trained.metrics["mAP"] > max(0.5, untrained.metrics["mAP"])


def test_bf16_trains_too(tiny_data: ReidData) -> None:
    _, exact = run(config(), tiny_data)
    _, rounded = run(config(precision="bf16"), tiny_data)
    assert rounded[0]["loss"] == pytest.approx(exact[0]["loss"], rel=0.1)
    assert rounded != exact


def test_momentum_may_start_anew_every_epoch(tiny_data: ReidData) -> None:
    _, kept = run(config(optimiser=Optimiser(name="sgd")), tiny_data)
    _, reset = run(config(optimiser=Optimiser(name="sgd", reset=True)), tiny_data)
    assert reset[0] == kept[0]  # nothing to forget yet
    assert reset[1] != kept[1]


def test_exponents_of_power_pooling_do_not_decay() -> None:
    method = methods.build("esnet", num_ids=3, backbone="resnet10_w16")
    decayed, kept = make_optimiser(method, Optimiser(weight_decay=0.1)).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert kept["params"] == [method.get_parameter("own.erasing.head.pool.exponent")]
    assert len(decayed["params"]) + 1 == sum(parameter.requires_grad for parameter in method.parameters())
    assert len(make_optimiser(methods.build("bdb", num_ids=3, backbone="resnet10_w16"), Optimiser()).param_groups) == 1


def test_probes_are_recorded_and_change_nothing(tiny_data: ReidData, monkeypatch: pytest.MonkeyPatch) -> None:
    _, plain = run(config(), tiny_data)

    def probes(method: Method, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        assert not torch.is_grad_enabled()
        assert method.training
        return {"probe/mean": images.mean() + 1000}

    monkeypatch.setattr(Method, "probes", probes)
    _, probed = run(config(), tiny_data)
    assert [line.pop("probe/mean") > 900 for line in probed] == [True] * 4
    assert probed == plain


@pytest.mark.parametrize("method", methods.names())
def test_the_classifiers_initial_spread_can_be_set(method: str) -> None:
    trial = config(method, classifier_std=0.02)
    torch.manual_seed(0)
    weights = [value for name, value in build_method(trial, 50).named_parameters() if value.shape[-2:-1] == (50,)]
    assert weights
    assert [value.std().item() for value in weights] == pytest.approx([0.02] * len(weights), rel=0.05)


def test_divergence_names_the_epoch(tiny_data: ReidData) -> None:
    with pytest.raises(DivergedError, match=r"in epoch \d; lower recipe.schedule.peak_lr"):
        run(config(schedule=Schedule(epochs=9, peak_lr=1e36), optimiser=Optimiser(name="sgd")), tiny_data)


def test_flip_averages_image_and_mirror(tiny_data: ReidData) -> None:
    trial = config(protocol=Protocol(flip=True))
    torch.manual_seed(0)
    method = build_method(trial, num_ids=12)
    rows = np.arange(5)
    features = embed(method, tiny_data.images, rows, recipe=trial.recipe)[OWN]
    images = to_float(torch.from_numpy(tiny_data.images[rows]), (64, 32))
    with torch.no_grad():
        expected = (method.embed(images) + method.embed(images.flip(3))) / 2
    assert torch.allclose(features, expected, atol=1e-5)


def test_every_branch_is_scored_beside_the_whole(tiny_data: ReidData) -> None:
    result, _ = run(config(schedule=Schedule(epochs=1)), tiny_data)
    assert list(result.retrieval) == [OWN, "global", "drop"]
    assert result.metrics["drop/mAP"] == result.retrieval["drop"].mean_ap != result.metrics["mAP"]
    held_out, _ = run(config(schedule=Schedule(epochs=1), evaluate_on="val"), tiny_data)
    assert list(held_out.retrieval) == [OWN]


def test_kept_weights_score_as_the_trial_did(tmp_path: Path, tiny_data: ReidData) -> None:
    weights, trial = tmp_path / "weights.safetensors", config("saadb", schedule=Schedule(epochs=1))
    trained = train(trial, tiny_data, lambda metrics: None, weights=weights)
    again = score(trial, weights, tiny_data)
    assert again.epochs == 0
    assert same(trained, again)
    other = replace(trial, recipe=replace(trial.recipe, protocol=Protocol(ap="cut50", flip=True)))
    assert score(other, weights, tiny_data).metrics != trained.metrics


def test_a_network_is_scored_on_a_data_set_with_other_identities(tmp_path: Path, tiny_data: ReidData) -> None:
    weights = tmp_path / "weights.safetensors"
    fewer = replace(config(schedule=Schedule(epochs=1)), evaluate_on="val")  # trains without the held-out identities
    train(fewer, tiny_data, lambda metrics: None, weights=weights)
    assert score(replace(fewer, evaluate_on="test"), weights, tiny_data).metrics["num_valid"] > 0


def test_pixels_are_the_rows_asked_for(tiny_data: ReidData) -> None:
    rows = np.array([7, 3, 9])
    pixels = Pixels(tiny_data.images, rows, torch.device("cpu"))
    assert torch.equal(pixels[torch.tensor([2, 0])], torch.from_numpy(tiny_data.images[[9, 7]]))


def test_golden_losses(tiny_data: ReidData) -> None:
    """A refactor must not move the losses; REID_WRITE_GOLDEN=1 records them anew after a change that is meant to.

    Two epochs of three steps: later ones magnify the last bits, in which processors differ.
    """
    short = replace(RECIPE.schedule, epochs=2)
    losses = {
        name: [line["loss"] for line in run(config(name, schedule=short), tiny_data)[1]] for name in ("baseline", "bdb")
    }
    if os.environ.get("REID_WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps(losses, indent=1) + "\n")
    recorded = json.loads(GOLDEN.read_text())
    for name, values in losses.items():
        assert values == pytest.approx(recorded[name], rel=5e-3), name
