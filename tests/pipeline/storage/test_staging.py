"""Packed data sets, published once and staged once by each machine: never twice, never damaged, never half."""

import errno
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.running.supervision import Cause
from pipeline.running.trial import failure
from pipeline.storage import staging
from pipeline.storage.objects import Objects
from pipeline.storage.staging import InPlace, Published, publish, ready
from tests.services import ROOT

FILES = ("info.json", "manifest.parquet", "split.json", "images.npy")


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """What a prepared data set consists of, with other content."""
    folder = tmp_path / "data" / "synthetic"
    folder.mkdir(parents=True)
    for name in FILES[:3]:
        (folder / name).write_text(f"the content of {name}")
    np.save(folder / "images.npy", np.random.default_rng(0).integers(0, 255, (50, 8, 4, 3), dtype=np.uint8))
    return folder


@pytest.fixture(params=["folder", "url"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "shared" / "data") if request.param == "folder" else request.getfixturevalue("bucket")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def published(packed: Path, place: str, cache: Path) -> Published:
    return Published(place, {packed.name: publish(packed, place)}, cache=str(cache))


def test_what_is_published_is_staged_byte_for_byte(
    packed: Path, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = published(packed, place, tmp_path / "cache").folder("synthetic")
    assert folder.name == "synthetic"
    assert contents(folder) == contents(packed)
    assert "publishing synthetic (" in capsys.readouterr().err
    before = {name: version.modified for name, version in Objects(place).list().items()}
    publish(packed, place)
    assert {name: version.modified for name, version in Objects(place).list().items()} == before
    assert capsys.readouterr().err == ""


def test_data_that_changes_has_another_name(packed: Path, place: str, tmp_path: Path) -> None:
    old = published(packed, place, tmp_path / "cache")
    (packed / "split.json").write_text("another draw")
    new = published(packed, place, tmp_path / "cache")
    assert (new.folder("synthetic") / "split.json").read_text() == "another draw"
    assert (old.folder("synthetic") / "split.json").read_text() == "the content of split.json"


def test_a_publication_that_was_killed_is_made_whole(packed: Path, place: str, tmp_path: Path) -> None:
    digest = publish(packed, place)
    objects = Objects(f"{place}/{staging._name('synthetic', digest)}")
    for gone in (["SHA256SUMS", "images.npy"], ["split.json"]):
        objects.delete(gone)
        assert publish(packed, place) == digest
    objects.put("images.npy", b"a part of it")
    folder = published(packed, place, tmp_path / "cache").folder("synthetic")
    assert contents(folder) == contents(packed)


STAGE = """
import sys, time
from pathlib import Path
from pipeline.storage import objects, staging
real = objects.Objects.get_file
def counted(self, name, path):
    with open(sys.argv[4], "a") as file:
        file.write(name + "\\n")
    time.sleep(0.05)
    real(self, name, path)
objects.Objects.get_file = counted
print(staging.Published(sys.argv[1], {"synthetic": sys.argv[2]}, cache=sys.argv[3]).folder("synthetic"))
"""


def test_six_workers_of_a_machine_bring_it_once(packed: Path, bucket: str, tmp_path: Path) -> None:
    digest, said = publish(packed, bucket), tmp_path / "said.txt"
    command = [sys.executable, "-c", STAGE, bucket, digest, str(tmp_path / "cache"), str(said)]
    workers = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    folders = {worker.communicate(timeout=120)[0].strip() for worker in workers}
    assert [worker.returncode for worker in workers] == [0] * 6
    assert len(folders) == 1
    assert contents(Path(folders.pop())) == contents(packed)
    assert sorted(said.read_text().split()) == sorted(FILES)


def test_what_a_killed_worker_left_is_not_used(packed: Path, place: str, tmp_path: Path) -> None:
    data = published(packed, place, tmp_path / "cache")
    left = tmp_path / "cache" / "data" / f".{staging._name('synthetic', data.digests['synthetic'])}.tmp" / "synthetic"
    left.mkdir(parents=True)
    (left / "images.npy").write_bytes(b"half of it")
    assert contents(data.folder("synthetic")) == contents(packed)
    assert not left.parent.exists()


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("images.npy", lambda content: content[:-1]),
        ("images.npy", lambda content: content[:500] + bytes([content[500] ^ 1]) + content[501:]),
        ("info.json", lambda content: b""),
        ("SHA256SUMS", lambda content: content.replace(b"0", b"1")),
    ],
)
def test_what_is_not_what_was_published_is_refused(
    packed: Path, place: str, tmp_path: Path, name: str, harm: Callable[[bytes], bytes]
) -> None:
    data = published(packed, place, tmp_path / "cache")
    objects = Objects(f"{place}/{staging._name('synthetic', data.digests['synthetic'])}")
    objects.put(name, harm(objects.get(name)))
    with pytest.raises(ValueError, match=rf"{objects.url}/{name} is not what was published; remove {objects.url}"):
        data.folder("synthetic")
    assert not [path for path in (tmp_path / "cache" / "data").iterdir() if path.is_dir()]
    objects.delete(list(objects.list()))
    with pytest.raises(FileNotFoundError, match="not published there; start the sweep again"):
        data.folder("synthetic")
    publish(packed, place)
    assert contents(data.folder("synthetic")) == contents(packed)


def test_a_disk_without_room_is_noticed_before(
    packed: Path, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = published(packed, place, tmp_path / "cache")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    monkeypatch.setattr(Objects, "get_file", lambda *_: pytest.fail("it was brought"))
    with pytest.raises(OSError, match=r"the data set takes .* are free; delete .*sweep\.cache") as raised:
        data.folder("synthetic")
    assert raised.value.errno == errno.ENOSPC
    assert failure(raised.value).cause is Cause.NO_ROOM


def test_without_a_place_the_folder_itself_is_used(packed: Path, bucket: str) -> None:
    data = ready(packed.parent, ["synthetic"], None, cache="~/cache")
    assert isinstance(data, InPlace)
    assert data.folder("synthetic") == packed
    staged = ready(packed.parent, ["synthetic"], bucket, cache="~/cache")
    assert isinstance(staged, Published)
    assert set(staged.digests) == {"synthetic"}
    assert list(Objects(bucket).list())
