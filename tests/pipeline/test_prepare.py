"""Where the prepare stage looks for a data set, and what it does with what it finds there."""

import os
import shutil
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import prepare
from pipeline.planning import places
from pipeline.planning.params import Packing, Params, load
from reid.config import BOTH_PARTS, Protocol, Recipe, Rule, Settings, TrialConfig
from reid.data.layout import AbsentError
from reid.data.manifest import match_warnings, read
from reid.data.pack import PackInfo
from reid.evaluation import Embeddings, evaluate
from tests.conftest import ROOT
from tests.reid.data import miniatures

PARAMS = load(ROOT / "params.yaml")
CONFIG = TrialConfig(method="any", model=Settings(), recipe=Recipe())


@pytest.fixture(autouse=True)
def _no_data_sets_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REID_DATASETS", "FASTREID_DATASETS"):
        monkeypatch.delenv(name, raising=False)


def changed(**settings: Any) -> Params:
    """The repository's params.yaml with some of section prepare replaced."""
    return PARAMS.model_copy(update={"prepare": PARAMS.prepare.model_copy(update={"workers": 1, **settings})})


def run(root: Path, dataset: str, params: Params, option: Path | None = None) -> None:
    prepare.run(root, dataset, params, configs=[CONFIG], option=None if option is None else str(option))


def test_a_withdrawn_data_set_needs_a_yes_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"dukemtmcreid: .*withdrew in 2019.* prepare.allow_withdrawn: true"):
        run(tmp_path, "dukemtmcreid", PARAMS)
    with pytest.raises(FileNotFoundError, match="DukeMTMC-reID is not under"):
        run(tmp_path, "dukemtmcreid", changed(allow_withdrawn=True))
    assert "withdrew in 2019" in capsys.readouterr().out


# Places


def test_the_first_place_that_has_the_set_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each place of the order in turn, with the set in all that come after it."""
    order = ("--root", "REID_DATASETS", "FASTREID_DATASETS", "prepare.root", "./datasets")
    homes = {source: tmp_path / name for source, name in zip(order, ("a", "b", "c", "d", "datasets"), strict=True)}
    for home in homes.values():
        miniatures.write("market1501", home)
    monkeypatch.setenv("REID_DATASETS", str(homes["REID_DATASETS"]))
    monkeypatch.setenv("FASTREID_DATASETS", str(homes["FASTREID_DATASETS"]))
    for source in order:
        run(tmp_path, "market1501", changed(root="d"), homes["--root"])
        said = capsys.readouterr().out.splitlines()
        assert said[0] == f"Market-1501: read from {homes[source]} ({source})"
        (homes[source] / "Market-1501-v15.09.15").rename(homes[source] / "elsewhere")
    with pytest.raises(FileNotFoundError) as caught:
        run(tmp_path, "market1501", changed(root="d"), homes["--root"])
    looked, first, *_ = str(caught.value).splitlines()
    listed = ", ".join(f"{home} ({source})" for source, home in homes.items())
    assert looked == f"Market-1501 was looked for in {listed}"
    assert first == f"Market-1501 is not under {homes['--root']}"
    assert f"Closest folder found: {homes['--root']}/elsewhere (complete, but" in str(caught.value)


def test_a_named_place_that_is_no_folder_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REID_DATASETS", str(tmp_path / "typo"))
    with pytest.raises(
        FileNotFoundError, match=r"typo \(REID_DATASETS, no such folder\), .*datasets \(./datasets, no such"
    ):
        run(tmp_path, "market1501", PARAMS)
    miniatures.write("market1501", tmp_path / "datasets")
    run(tmp_path, "market1501", PARAMS)
    assert f"warning: REID_DATASETS is {tmp_path}/typo, which is no folder\n" in capsys.readouterr().out


def test_how_places_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("REID_DATASETS", "")
    monkeypatch.setenv("FASTREID_DATASETS", "~/sets")
    (tmp_path / "home" / "sets").mkdir(parents=True)
    found = places.named(tmp_path, option="below", setting="datasets")
    assert [(place.source, place.path, place.exists) for place in found] == [
        ("--root", tmp_path / "below", False),
        ("FASTREID_DATASETS", tmp_path / "home" / "sets", True),
        ("prepare.root", tmp_path / "datasets", False),
    ]
    assert places.searched(found) == [found[1]]
    assert places.searched(found[::2]) == [found[0]]


def test_a_set_that_lacks_files_is_not_looked_for_elsewhere(tmp_path: Path) -> None:
    """Half of a data set is a mistake to mend, where none of it is a matter of looking on."""
    records = miniatures.write("sop", tmp_path / "here")
    miniatures.write("sop", tmp_path / "datasets")
    (tmp_path / "here" / records[0].path).unlink()
    with pytest.raises(FileNotFoundError, match="names 1 files that are not in") as caught:
        run(tmp_path, "sop", PARAMS, tmp_path / "here")
    assert not isinstance(caught.value, AbsentError)


# Archives


def test_an_archive_is_extracted_once(tmp_path: Path) -> None:
    miniatures.write("msmt17_v2", tmp_path / "made")
    raw = tmp_path / "raw"
    raw.mkdir()
    archive = shutil.make_archive(str(raw / "MSMT17_V2"), "gztar", tmp_path / "made")
    run(tmp_path, "msmt17_v2", PARAMS, raw)
    packed = (tmp_path / "data" / "msmt17_v2" / "info.json").read_text()
    stamps = {path: path.stat().st_mtime_ns for path in raw.rglob("*")}
    run(tmp_path, "msmt17_v2", PARAMS, raw)
    assert (tmp_path / "data" / "msmt17_v2" / "info.json").read_text() == packed
    assert {path: path.stat().st_mtime_ns for path in raw.rglob("*")} == stamps
    os.unlink(archive)
    run(tmp_path, "msmt17_v2", PARAMS, raw)
    assert (tmp_path / "data" / "msmt17_v2" / "info.json").read_text() == packed


def test_an_archive_in_the_first_place_comes_before_folders_in_the_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    miniatures.write("market1501", tmp_path / "datasets")
    (tmp_path / "raw").mkdir()
    shutil.make_archive(str(tmp_path / "raw" / "Market-1501-v15.09.15"), "zip", tmp_path / "datasets")
    run(tmp_path, "market1501", PARAMS, tmp_path / "raw")
    assert capsys.readouterr().out.startswith(f"Market-1501: read from {tmp_path}/raw/market1501-extracted (--root)\n")


@pytest.mark.parametrize("boxes", ["detected", "labeled"])
def test_the_raw_form_of_cuhk03_is_extracted(boxes: str, tmp_path: Path) -> None:
    key = f"cuhk03_{boxes}"
    records = miniatures.write_raw(key, tmp_path / "raw")
    run(tmp_path, key, PARAMS, tmp_path / "raw")
    assert (tmp_path / "raw" / f"{key}-extracted").is_dir()
    assert len(read(tmp_path / "data" / key / "manifest.parquet")) == len(records)


def test_keys_of_one_archive_extract_it_once(tmp_path: Path) -> None:
    miniatures.write("cub200", tmp_path / "made")
    raw = tmp_path / "raw"
    raw.mkdir()
    shutil.make_archive(str(raw / "CUB_200_2011"), "zip", tmp_path / "made")
    run(tmp_path, "cub200_cropped", PARAMS, raw)
    stamps = {path: path.stat().st_mtime_ns for path in raw.rglob("*")}
    run(tmp_path, "cub200", PARAMS, raw)
    assert {path: path.stat().st_mtime_ns for path in raw.rglob("*")} == stamps
    assert {path.name for path in raw.iterdir()} == {"CUB_200_2011.zip", "cub200-extracted"}


# Sizes


def test_a_data_set_is_packed_as_by_dataset_says(tmp_path: Path) -> None:
    """The miniature's images have 32 x 16 pixels, and so do those of one that nothing is said of."""
    for key in ("cub200", "cub200_cropped", "cars196"):
        miniatures.write(key, tmp_path / "datasets")
    padded, stretched = (Packing(image_size=(40, 40), fit=fit) for fit in ("pad", "stretch"))
    params = changed(by_dataset={"cub200": padded, "cub200_cropped": padded, "cars196": stretched})
    infos = {}
    for key in ("cub200", "cub200_cropped", "cars196"):
        run(tmp_path, key, params)
        infos[key] = PackInfo.load(tmp_path / "data" / key)
    assert {key: (info.shape[1:3], info.fit) for key, info in infos.items()} == {
        "cub200": ((40, 40), "pad"),
        "cub200_cropped": ((40, 40), "pad"),
        "cars196": ((32, 16), "stretch"),
    }
    assert infos["cub200"].digest != infos["cub200_cropped"].digest
    assert infos["cub200_cropped"].name == "CUB-200-2011: cropped"
    assert set(read(tmp_path / "data" / "cub200_cropped" / "manifest.parquet")["box"]) == {"1,3,14,30"}


# Rules


def test_queries_are_checked_by_every_rule_that_will_be_used(tmp_path: Path) -> None:
    """VehicleID has no cameras, so that scoring it as Market-1501 would leave no query a match."""
    miniatures.write("vehicleid_small", tmp_path / "datasets")
    other = TrialConfig(method="any", model=Settings(), recipe=Recipe(protocol=Protocol(rule="cross_camera")))
    with pytest.raises(
        ValueError, match=r"rule cross_camera: .* set in the profile's overrides: .*rule: leave_one_out"
    ):
        prepare.run(tmp_path, "vehicleid_small", PARAMS, configs=[CONFIG, other], option=None)
    assert not (tmp_path / "data").exists()
    run(tmp_path, "vehicleid_small", PARAMS)


@st.composite
def labelled(draw: st.DrawFn) -> pd.DataFrame:
    """Some test images, either queries beside a gallery with junk and distractors, or query and gallery both."""
    both = draw(st.booleans())
    identities = st.integers(1, 4)
    rows = []
    for split in ["test", "test"] if both else ["query", "gallery"]:
        who = identities if split != "gallery" else st.integers(-1, 4)
        rows += [
            (*labels, split) for labels in draw(st.lists(st.tuples(who, st.integers(0, 2)), min_size=1, max_size=6))
        ]
    table = pd.DataFrame(rows, columns=["identity", "camera", "split"])
    return table.assign(path=[f"{row}.jpg" for row in range(len(table))])


@given(labelled(), st.sampled_from(get_args(Rule)))
def test_what_is_said_of_matches_is_what_the_evaluation_finds(table: pd.DataFrame, rule: Rule) -> None:
    both, among = table["split"].eq("test").any(), rule in BOTH_PARTS
    if among != both and (among or rule == "query_gallery"):
        with pytest.raises(ValueError, match=r"among themselves, and there are none|would find itself"):
            match_warnings(table, rule)
        return
    sides = [table[table["split"].isin([side, "test"])] for side in ("query", "gallery")]
    noise = np.random.default_rng(0).normal(size=(len(table), 3))
    query, gallery = (Embeddings(noise[side.index], side["identity"].array, side["camera"].array) for side in sides)
    try:
        skipped = evaluate(query, gallery, Protocol(rule=rule, draws=1)).num_skipped
    except ValueError:
        with pytest.raises(ValueError, match=f"no query has a match by the rule {rule}: "):
            match_warnings(table, rule)
        return
    said = match_warnings(table, rule)
    assert [int(warning.split(" ")[0]) for warning in said] == [skipped] * bool(skipped)


@pytest.mark.parametrize(
    ("rows", "rule", "said"),
    [
        ([(1, 0, "query"), (1, 0, "gallery")], "cross_camera", "rule: query_gallery"),
        ([(1, 1, "query"), (1, 2, "gallery")], "leave_one_out", "and there are none; .*rule: cross_camera"),
        ([(1, 0, "test"), (1, 0, "test")], "query_gallery", "each of the 2 images .* itself; .*rule: leave_one_out"),
        ([(1, 0, "test"), (2, 0, "test")], "one_shot", "there are no queries; mend identities and splits$"),
        ([(1, 0, "train")], "cross_camera", "there are no queries; mend identities and splits$"),
    ],
)
def test_a_rule_that_would_do_is_named(rows: list[tuple[int, int, str]], rule: Rule, said: str) -> None:
    table = pd.DataFrame(rows, columns=["identity", "camera", "split"]).assign(path="x.jpg")
    with pytest.raises(ValueError, match=said):
        match_warnings(table, rule)
