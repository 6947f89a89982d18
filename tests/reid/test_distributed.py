"""Several processes that share a batch, against one that has it alone."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, nn

from reid.config import Augment
from reid.data.augment import augment
from reid.distributed import check_batch
from reid.parts.drop import BatchDropBlock, DropBlock, Dropout
from tests.conftest import takes_minutes
from tests.reid import several

# Of the largest number of its kind. Updates magnify rounding, powers of a map's values most of all.
FIRST_STEP, LATER = 2e-10, 1e-7


def waited_for(processes: list[Any]) -> list[str]:
    """What every process has said when all are over."""
    try:
        return [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """For files of a gigabyte each, which do not stay."""
    path = tmp_path_factory.mktemp("several")
    for name in ("one", "two", "four"):
        (path / name).mkdir()
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def one(folders: Path) -> Path:
    """What one process finds."""
    folder = folders / "one"
    torch.set_num_threads(1)
    several.all_steps(folder, several.CASES)
    with several.double():
        (folder / "trials.json").write_text(json.dumps(several.exact_trials()))
    several.run(several.trial("bdb"), state=folder / "state.safetensors", until=1)
    return folder


@pytest.fixture(scope="module")
def two(one: Path, folders: Path) -> Path:
    """What two find."""
    folder = folders / "two"
    (folder / "of_one.safetensors").write_bytes((one / "state.safetensors").read_bytes())
    processes = several.launch("all", 2, folder)
    words = waited_for(processes)
    assert [process.returncode for process in processes] == [0, 0], words
    return folder


@pytest.fixture(scope="module")
def four(folders: Path) -> Path:
    """What four find."""
    folder = folders / "four"
    processes = several.launch("all", 4, folder)
    words = waited_for(processes)
    assert [process.returncode for process in processes] == [0] * 4, words
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "size"),
    [
        *((case, 2) for case in several.CASES),
        *(pytest.param(case, 4, marks=takes_minutes) for case in several.CASES_OF_FOUR),
    ],
)
def test_losses_gradients_and_statistics_are_those_of_one_process(
    case: several.Case, size: int, one: Path, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue({2: "two", 4: "four"}[size])
    prefix = "/".join(case) + "/"
    expected = load(one / "steps0.safetensors", prefix)
    assert expected
    for rank in range(size):
        found = load(folder / f"steps{rank}.safetensors", prefix)
        assert found.keys() == expected.keys()
        assert torch.equal(found[f"{prefix}random"], expected[f"{prefix}random"])  # nothing was drawn differently
        for step, allowed in (("0", FIRST_STEP), ("1", LATER)):
            for kind in (f"{prefix}{step}.loss.", f"{prefix}{step}.gradient."):
                assert_close(expected, found, kind, allowed)
        assert_close(expected, found, f"{prefix}state.", LATER)


def load(path: Path, prefix: str) -> dict[str, Tensor]:
    """What a case has in the file of all."""
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys() if key.startswith(prefix)}  # noqa: SIM118


def assert_close(expected: dict[str, Tensor], found: dict[str, Tensor], kind: str, allowed: float) -> None:
    names = [name for name in expected if name.startswith(kind)]
    largest = max(expected[name].abs().max().item() for name in names)
    assert largest > 0
    for name in names:
        assert (found[name] - expected[name]).abs().max().item() <= allowed * largest, name


def trials(folder: Path) -> dict[str, Any]:
    found: list[dict[str, Any]] = [json.loads((folder / f"trials{rank}.json").read_text()) for rank in (0, 1)]
    for name, item in found[0].items():
        assert found[1][name] == item  # all report and return the same
    return found[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["exact", "exact_saadb", "exact_val"])
def test_a_trial_finds_what_one_process_finds(name: str, one: Path, two: Path) -> None:
    expected, found = json.loads((one / "trials.json").read_text())[name], trials(two)[name]
    for line, other in zip(expected["lines"], found["lines"], strict=True):
        assert other == pytest.approx(line, rel=1e-6)
    assert found["metrics"] == pytest.approx(expected["metrics"], rel=1e-6)


@pytest.mark.slow
def test_two_runs_give_the_same_bits_and_so_does_one_that_was_interrupted(two: Path) -> None:
    found = trials(two)
    assert found["again"] == found["esnet"]
    assert found["resumed"]["lines"] == found["bdb"]["lines"][1:]
    assert found["resumed"]["precisions"] == found["bdb"]["precisions"]


@pytest.mark.slow
def test_several_go_on_where_one_was_stopped_and_one_where_several_were(one: Path, two: Path, tmp_path: Path) -> None:
    found, state = trials(two), tmp_path / "state.safetensors"
    whole = several.run(several.trial("bdb"))
    later = found["resumed_from_one"]["lines"]
    assert [line["epoch"] for line in later] == [2]
    assert later[0]["loss"] == pytest.approx(whole["lines"][1]["loss"], rel=0.05)  # in single precision
    state.write_bytes((two / "half_of_two.safetensors").read_bytes())
    alone = several.run(several.trial("bdb"), state=state)
    assert [line["epoch"] for line in alone["lines"]] == [2]
    assert alone["lines"][0]["loss"] == pytest.approx(found["bdb"]["lines"][1]["loss"], rel=0.05)


@pytest.mark.slow
def test_bf16_trains_too(two: Path) -> None:
    found = trials(two)
    rounded, exact = (found[name]["lines"][0]["loss"] for name in ("bf16", "bdb"))
    assert rounded == pytest.approx(exact, rel=0.1)
    assert rounded != exact


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "silent"])
def test_a_process_that_dies_or_falls_silent_ends_the_others(how: str, tmp_path: Path) -> None:
    first, second = several.launch(how, 2, tmp_path)
    try:
        _, words = first.communicate(timeout=60 + several.SECONDS)
        assert first.returncode == 1
        assert "LostProcessError: process 1 of 2 has lost the others" in words
    finally:
        second.kill()
        waited_for([first, second])


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_is_refused_before_anything_runs(tmp_path: Path) -> None:
    for words in waited_for(several.launch("uneven", 2, tmp_path)):
        assert "a batch of 3 x 3 images (recipe.sampler.identities x images) cannot be shared equally by 2" in words


def test_the_error_names_what_fits() -> None:
    check_batch(identities=32, images=4, processes=8)
    with pytest.raises(ValueError, match="take 1, 2, 3, 4, 6, 12 processes, or a batch that is a multiple of 5"):
        check_batch(identities=3, images=4, processes=5)


OPERATORS: dict[str, Callable[[float], nn.Module]] = {
    "dropout": Dropout,
    "spatial": lambda p: Dropout(p, channels=True),
    "dropblock": lambda p: DropBlock(p, (2, 3)),
    "single": lambda p: BatchDropBlock(0.5, p, groups=None),
    "grouped": lambda p: BatchDropBlock(0.5, p, groups=3),
    "augment": lambda p: Augmentation(Augment(flip=p, crop_padding=2, cutout=p, cutout_size=3, random_erasing=p)),
}


class Augmentation(nn.Module):
    def __init__(self, chosen: Augment) -> None:
        super().__init__()
        self.chosen = chosen

    def forward(self, maps: Tensor) -> Tensor:
        pixels = (maps * 100).byte().permute(0, 2, 3, 1)
        return augment(pixels, (8, 6), self.chosen, torch.Generator().manual_seed(int(torch.randint(99, ()))))


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(OPERATORS)),
    size=st.integers(2, 5),
    rows=st.integers(1, 4),
    p=st.sampled_from([0.2, 0.5, 0.8]),
    last=st.booleans(),
)
def test_what_is_drawn_for_an_image_is_what_one_process_draws_for_it(
    name: str, size: int, rows: int, p: float, last: bool
) -> None:
    operator = OPERATORS[name](p).train()
    maps = torch.rand(size * rows, 3, 8, 6).to(memory_format=torch.channels_last if last else torch.contiguous_format)

    def drawn(rank: int, processes: int) -> Tensor:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dist, "is_initialized", lambda: processes > 1)
            patch.setattr(dist, "get_world_size", lambda: processes)
            patch.setattr(dist, "get_rank", lambda: rank)
            torch.manual_seed(3)
            return operator(maps.chunk(processes)[rank])

    assert torch.equal(torch.cat([drawn(rank, size) for rank in range(size)]), drawn(0, 1))
