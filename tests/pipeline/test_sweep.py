"""What a sweep looks at before it starts."""

from pathlib import Path

import pytest

from pipeline import experiments, sweep
from pipeline.agenda import Agenda
from pipeline.params import load
from pipeline.plan import expand
from pipeline.store import TrialStore
from pipeline.strict import ParamsError
from reid.data.decode import Fit
from reid.data.pack import PackInfo

ROOT = Path(__file__).parent.parent.parent


def comparison(store: Path) -> Agenda:
    """All methods in the demo profile, without the stripes that make HAN fit."""
    params = load(ROOT / "params.yaml").model_copy(update={"seeds": (0, 1)})
    demo = params.profiles["demo"]
    methods = {**demo.methods, "han": {**demo.methods["han"], "model.stripes": 6}}
    profiles = {**params.profiles, "demo": demo.model_copy(update={"methods": methods})}
    data = {"synthetic": {"val": "v", "test": "t"}}
    plan = expand(params.model_copy(update={"profiles": profiles}), experiments.load(("comparison",)), data)
    return Agenda(plan, TrialStore(store))


def test_a_misfit_is_refused_before_anything_trains(tmp_path: Path) -> None:
    with pytest.raises(ParamsError) as caught:
        sweep._check(comparison(tmp_path))
    (problem,) = caught.value.problems  # once, not for every seed; and the other methods fit
    assert problem.startswith("han-")
    assert "8 rows, which cannot be cut into 6 equal stripes: set model.stripes to one of 1, 2, 4, 8" in problem


def packed(name: str, size: tuple[int, int], fit: Fit, *, resized: bool = True) -> PackInfo:
    shape = (10, *size, 3)
    return PackInfo(
        dataset=name, name=name, digest="d", shape=shape, fit=fit, resized=resized, counts={}, warnings=(), skipped=()
    )


def test_images_that_would_lose_their_shape_are_refused_and_enlarged_ones_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    params = load(ROOT / "params.yaml").model_copy(update={"datasets": ("cub200", "market1501"), "seeds": (0,)})
    data = {name: {"val": "v", "test": "t"} for name in params.datasets}
    plan = expand(params, experiments.load(("comparison",)), data)
    small = packed("market1501", (64, 32), "stretch")
    sweep._check_sizes(plan, {"cub200": packed("cub200", (256, 256), "pad"), "market1501": small})
    (warning,) = capsys.readouterr().err.splitlines()
    assert "the images of market1501 are packed at 64 x 32: they are enlarged" in warning
    with pytest.raises(ParamsError, match=r"image_size is 128 x 128, and the images of cub200 are padded to 256 x 128"):
        sweep._check_sizes(plan, {"cub200": packed("cub200", (256, 128), "pad"), "market1501": small})
