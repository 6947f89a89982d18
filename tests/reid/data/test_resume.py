"""A packing that was broken off goes on where it was, believes nothing that is damaged, and ends as if undisturbed."""

import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reid.data import journal, lock, rows
from reid.data.decode import Fit, Source, decode
from reid.data.manifest import Record
from reid.data.pack import BadImagesError, PackInfo, PackingError, pack
from tests.conftest import ROOT

CHUNK = 32
COUNT = 5 * CHUNK - 10
LAST = f"{COUNT - 1:03}.png"


def draw(file: Path, seed: int, size: tuple[int, int] = (8, 4)) -> None:
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(file)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images of one size, in five chunks."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for number in range(COUNT):
        draw(folder / f"{number:03}.png", number)
    return folder


def packed(root: Path, folder: Path, **settings: object) -> PackInfo:
    records = [Record(f"{number:03}.png", number + 1, 1, "train") for number in range(COUNT)]
    arguments = {"image_size": (8, 6), "workers": 1} | settings
    return pack(root, records, folder / "synthetic", **arguments)  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (folder / "synthetic").iterdir()}


def undisturbed(root: Path, folder: Path, **settings: object) -> dict[str, bytes]:
    packed(root, folder, **settings)
    return contents(folder)


@contextmanager
def counted() -> Iterator[list[str]]:
    """The paths that are decoded to rows, in this process; the few that are looked at for their size do not count."""
    seen: list[str] = []

    def recorded(root: Path, source: Source, size: tuple[int, int], *, fit: Fit, max_pixels: int) -> object:
        seen.append(source.path)
        return decode(root, source, size, fit=fit, max_pixels=max_pixels)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "decode", recorded)
        yield seen


def broken_off(root: Path, folder: Path) -> Path:
    """All is decoded, and the last image is bad: the journal stays. The bad image is then mended."""
    whole = (root / LAST).read_bytes()
    (root / LAST).write_bytes(whole[:-40])
    with pytest.raises(BadImagesError):
        packed(root, folder)
    (root / LAST).write_bytes(whole)
    return folder / "synthetic" / ".packing"


def chunk_of(number: int) -> set[str]:
    first = number // CHUNK * CHUNK
    return {f"{at:03}.png" for at in range(first, min(first + CHUNK, COUNT))}


KILLED = """
import functools, multiprocessing, os, signal, sys
from pathlib import Path
from reid.data import pack, rows
from reid.data.manifest import Record
root, folder, count, workers, moment, calls = Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:6]), 0
pack._IMAGES_PER_PROCESS = 1
original = rows.decode
def decode(*arguments, **settings):
    global calls
    calls += 1
    if calls == moment:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **settings)
def progress(done, total):
    if workers == 2 and done >= moment:
        print(*(process.pid for process in multiprocessing.active_children()), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
rows.decode = decode
records = [Record(f"{number:03}.png", number + 1, 1, "train") for number in range(count)]
pack.pack(root, records, folder, image_size=(8, 6), workers=workers, progress=progress)
"""


def killed(root: Path, folder: Path, *, workers: int, moment: int) -> list[int]:
    """Pack in a process that is killed while it decodes the n-th image, or has n done; its own processes come back."""
    arguments = [root, folder / "synthetic", COUNT, workers, moment]
    command = [sys.executable, "-c", KILLED, *map(str, arguments)]
    run = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert run.returncode == -signal.SIGKILL, run.stderr
    return [int(number) for number in run.stdout.split()]


@pytest.mark.parametrize(("workers", "moments"), [(1, (40, 1, 70)), (2, (1, 90))])
def test_after_kills_at_any_moment_it_goes_on(
    root: Path, tmp_path: Path, workers: int, moments: tuple[int, ...]
) -> None:
    expected = undisturbed(root, tmp_path / "other")
    decoded = 0
    for moment in moments:
        children = killed(root, tmp_path, workers=workers, moment=moment)
        assert len(children) == (2 if workers == 2 else 0)
        assert (tmp_path / "synthetic" / ".packing" / "lock").exists()
        assert [file.name for file in (tmp_path / "synthetic").iterdir()] == [".packing"]
        decoded += moment if workers == 1 else 0
        wait_for_the_end_of(children)
    told: list[tuple[int, int]] = []
    with counted() as again:
        packed(root, tmp_path, progress=lambda *numbers: told.append(numbers))
    assert contents(tmp_path) == expected
    assert told[0] == (COUNT - len(again), COUNT)
    if workers == 1:  # not a chunk is lost but the one that was in the making
        assert decoded + len(again) < COUNT + CHUNK * len(moments)
    else:
        assert len(again) <= COUNT - 3 * CHUNK


def wait_for_the_end_of(processes: list[int]) -> None:
    """A pool's processes do not outlive the one that they work for."""

    def lives(number: int) -> bool:
        try:
            return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except FileNotFoundError:
            return False

    until = time.monotonic() + 20
    while any(map(lives, processes)):
        assert time.monotonic() < until, "a process of the pool goes on"
        time.sleep(0.02)


def test_several_processes_go_on_too(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = undisturbed(root, tmp_path / "other")
    broken_off(root, tmp_path)
    monkeypatch.setattr("reid.data.pack._IMAGES_PER_PROCESS", 1)
    damage(tmp_path / "synthetic" / ".packing" / "rows", 128 + 96 * (CHUNK + 3))
    told: list[tuple[int, int]] = []
    packed(root, tmp_path, workers=2, progress=lambda *numbers: told.append(numbers))
    assert told == [(4 * CHUNK, COUNT), (COUNT, COUNT)]
    assert contents(tmp_path) == expected


def test_what_is_mended_costs_its_chunk(root: Path, tmp_path: Path) -> None:
    expected = undisturbed(root, tmp_path / "other")
    broken_off(root, tmp_path)
    with counted() as again:
        packed(root, tmp_path)
    assert set(again) == chunk_of(COUNT - 1)
    assert contents(tmp_path) == expected


def test_bad_images_are_known_the_next_time(root: Path, tmp_path: Path) -> None:
    for number in (3, 70):
        (root / f"{number:03}.png").write_text("no")
    expected = undisturbed(root, tmp_path / "other", skip_bad=True)
    with pytest.raises(BadImagesError) as first:
        packed(root, tmp_path)
    with counted() as again:
        with pytest.raises(BadImagesError) as second:
            packed(root, tmp_path)
        assert str(first.value) == str(second.value)
        packed(root, tmp_path, skip_bad=True)
    assert again == []
    assert contents(tmp_path) == expected


def test_what_could_not_be_read_is_tried_again(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To change the permissions of a file, or to mount its disk, does not change its time."""
    expected = undisturbed(root, tmp_path / "other")

    def refuse(root: Path, path: str) -> int:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("reid.data.decode._opened", refuse)
        with pytest.raises(BadImagesError, match=r"none of the 150 images .*\n  000.png: Permission denied\n"):
            packed(root, tmp_path)
    packed(root, tmp_path)
    assert contents(tmp_path) == expected


def damage(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("number", [0, 45, COUNT - 1])
def test_a_row_without_its_checksum_costs_its_chunk(root: Path, tmp_path: Path, number: int) -> None:
    expected = undisturbed(root, tmp_path / "other")
    place = broken_off(root, tmp_path)
    damage(place / "rows", 128 + number * 96)
    with counted() as again:
        packed(root, tmp_path)
    assert set(again) == chunk_of(number) | chunk_of(COUNT - 1)
    assert contents(tmp_path) == expected


def test_a_journal_that_is_torn_or_damaged_anywhere_costs_what_it_lost(root: Path, tmp_path: Path) -> None:
    expected = undisturbed(root, tmp_path / "other")
    place = broken_off(root, tmp_path)
    shutil.copytree(place, tmp_path / "kept")
    whole = (place / "journal").read_bytes()
    lines = whole.split(b"\n")[1:]  # of the work, then of the chunks
    ends = np.cumsum([1 + len(line) for line in lines]).tolist()
    for at in np.linspace(1, len(whole) - 1, 12, dtype=int).tolist():
        line = int(np.searchsorted(ends, at, side="right"))
        torn, flipped = whole[:at], whole[:at] + bytes([whole[at] ^ 2]) + whole[at + 1 :]
        for text, lost in ((torn, range(line - 1, 5)), (flipped, (line - 1, 4))):  # the last one has changed
            shutil.rmtree(tmp_path / "synthetic")
            shutil.copytree(tmp_path / "kept", place)
            (place / "journal").write_bytes(text)
            with counted() as again:
                packed(root, tmp_path)
            assert contents(tmp_path) == expected
            assert {int(path[:3]) // CHUNK for path in again} == set(range(5) if line == 0 else lost)


def test_a_journal_goes_on_after_a_torn_line(root: Path, tmp_path: Path) -> None:
    place = broken_off(root, tmp_path)
    text = (place / "journal").read_bytes()
    (place / "journal").write_bytes(text[: text.rindex(b"\n") - 5])  # the last two chunks are lost
    (root / "149.png").write_text("no")
    with pytest.raises(BadImagesError):
        packed(root, tmp_path)
    assert sorted(journal.read(place / "journal")) == [0, 32, 64, 96, 128]


CHANGES: dict[str, tuple[Callable[[Path], object], dict[str, object], int]] = {
    "nothing": (lambda root: None, {}, COUNT % CHUNK),
    "content of an image": (lambda root: draw(root / "040.png", 999), {}, CHUNK + COUNT % CHUNK),
    "time of an image": (lambda root: os.utime(root / "040.png", ns=(0, 1)), {}, CHUNK + COUNT % CHUNK),
    "size of an image and of the packing": (
        lambda root: draw(root / "040.png", 40, (9, 4)),
        {"image_size": (4, 4)},
        COUNT,
    ),
    "limit of pixels": (lambda root: None, {"max_pixels": 1000}, COUNT),
    "size that is packed": (lambda root: None, {"image_size": (4, 4)}, COUNT),
    "size that does not matter": (lambda root: None, {"image_size": (9, 9)}, COUNT % CHUNK),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changed_is_decoded_again(root: Path, tmp_path: Path, change: str) -> None:
    edit, settings, cost = CHANGES[change]
    broken_off(root, tmp_path)
    edit(root)
    with counted() as again:
        packed(root, tmp_path, **settings)
    assert len(again) == cost
    assert contents(tmp_path) == undisturbed(root, tmp_path / "other", **settings)


def test_another_set_is_decoded_whole(root: Path, tmp_path: Path) -> None:
    """Though its files have the same names, sizes and times."""
    broken_off(root, tmp_path)
    shutil.copytree(root, tmp_path / "moved")
    with counted() as again:
        packed(tmp_path / "moved", tmp_path)
    assert len(again) == COUNT


@pytest.mark.parametrize("name", ["rows", "journal", "kept"])
def test_a_strangers_file_is_not_believed(root: Path, tmp_path: Path, name: str) -> None:
    expected, place = undisturbed(root, tmp_path / "other"), broken_off(root, tmp_path)
    (place / name).write_bytes(np.random.default_rng(0).bytes(50_000))
    packed(root, tmp_path)
    assert contents(tmp_path) == expected


@pytest.mark.parametrize("number", [1, 40, COUNT - 1])
def test_one_image_of_another_size_is_found_wherever_it_is(root: Path, tmp_path: Path, number: int) -> None:
    """And when it has been replaced, all are packed at their own size again; both after a try that left a journal."""
    at_own_size = undisturbed(root, tmp_path / "one")
    whole = (root / f"{number:03}.png").read_bytes()
    draw(root / f"{number:03}.png", 5, (7, 4))
    with counted() as again:
        resized = undisturbed(root, tmp_path / "two")
    assert len(again) <= COUNT + number // CHUNK * CHUNK + CHUNK  # what was done at the wrong size, and all
    assert json.loads(resized["info.json"])["shape"] == [COUNT, 8, 6, 3]

    (root / "100.png").rename(tmp_path / "100.png")
    with pytest.raises(BadImagesError):
        packed(root, tmp_path)
    (tmp_path / "100.png").rename(root / "100.png")
    with counted() as again:
        packed(root, tmp_path)
    assert set(again) == chunk_of(100)
    assert contents(tmp_path) == resized

    (root / "100.png").rename(tmp_path / "100.png")
    with pytest.raises(BadImagesError):
        packed(root, tmp_path)
    (tmp_path / "100.png").rename(root / "100.png")
    (root / f"{number:03}.png").write_bytes(whole)
    packed(root, tmp_path)
    assert contents(tmp_path) == at_own_size


def test_a_second_process_says_so_and_stops(root: Path, tmp_path: Path) -> None:
    place = broken_off(root, tmp_path)
    before = {file.name: file.read_bytes() for file in place.iterdir()}
    held = lock.take(place / "lock")
    with pytest.raises(PackingError) as caught:
        packed(root, tmp_path)
    assert str(caught.value) == f"{tmp_path / 'synthetic'}: another process is packing there; wait for it to end"
    (place / "lock").unlink()
    os.close(held)
    assert {file.name: file.read_bytes() for file in place.iterdir()} == before
    packed(root, tmp_path)


def test_a_full_disk_is_told_in_a_line_and_costs_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = undisturbed(root, tmp_path / "other")
    append, left = journal.append, [3]

    def append_while_there_is_room(file: object, chunk: journal.Chunk) -> None:
        if not left[0]:
            raise OSError(28, "No space left on device")
        left[0] -= 1
        append(file, chunk)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(journal, "append", append_while_there_is_room)
        with pytest.raises(PackingError) as caught:
            packed(root, tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'synthetic'}: cannot be written (No space left on device); mend that, such as by making room, "
        f"and try again, which goes on from here"
    )
    with counted() as again:
        packed(root, tmp_path)
    assert len(again) == COUNT - 3 * CHUNK
    assert contents(tmp_path) == expected


def test_a_limit_of_the_system_is_told_in_a_line(root: Path, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(PackingError, match=r"synthetic: cannot be written \(File too large\); mend that"):
            packed(root, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    packed(root, tmp_path)
    assert contents(tmp_path) == undisturbed(root, tmp_path / "other")


def test_a_process_that_dies_is_told_in_a_line(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reid.data.pack._IMAGES_PER_PROCESS", 1)

    def kill(done: int, total: int) -> None:
        for process in multiprocessing.active_children():
            process.kill()

    monkeypatch.setattr("reid.data.pack._CHUNK", 1)
    with pytest.raises(PackingError, match=r"synthetic: a process that decodes has died, .* set fewer prepare.workers"):
        packed(root, tmp_path, workers=2, progress=kill)
    monkeypatch.undo()  # chunks of another length are of no use now
    packed(root, tmp_path)
    assert contents(tmp_path) == undisturbed(root, tmp_path / "other")


def test_a_slow_chunk_keeps_no_other_from_the_journal() -> None:
    commands = [["sh", "-c", "sleep 1; echo slow"], *[["echo", "fast"]] * 5]
    with rows.runner(2) as run:
        results = run(subprocess.check_output, commands)  # type: ignore[arg-type]
        assert list(results) == [b"fast\n"] * 5 + [b"slow\n"]  # type: ignore[comparison-overlap]
