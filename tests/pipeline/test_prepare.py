"""What the prepare stage refuses before it reads anything."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from pipeline import prepare
from pipeline.params import load
from tests.conftest import ROOT
from tests.reid.data import miniatures


def test_a_withdrawn_data_set_needs_a_yes_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REID_DATASETS", str(tmp_path / "nothing"))
    params = load(ROOT / "params.yaml")
    with pytest.raises(ValueError, match=r"dukemtmcreid: .*withdrew in 2019.* prepare.allow_withdrawn: true"):
        prepare.run(tmp_path, "dukemtmcreid", params)
    allowed = params.model_copy(update={"prepare": params.prepare.model_copy(update={"allow_withdrawn": True})})
    with pytest.raises(FileNotFoundError, match="DukeMTMC-reID is not under"):
        prepare.run(tmp_path, "dukemtmcreid", allowed)
    assert "withdrew in 2019" in capsys.readouterr().out


def test_an_archive_is_extracted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    miniatures.write("msmt17_v2", tmp_path / "made")
    raw = tmp_path / "raw"
    raw.mkdir()
    shutil.make_archive(str(raw / "MSMT17_V2"), "gztar", tmp_path / "made")
    monkeypatch.setenv("REID_DATASETS", str(raw))
    params = load(ROOT / "params.yaml")
    prepare.run(tmp_path, "msmt17_v2", params)
    packed = (tmp_path / "data" / "msmt17_v2" / "info.json").read_text()
    stamps = {path: path.stat().st_mtime_ns for path in raw.rglob("*")}
    prepare.run(tmp_path, "msmt17_v2", params)
    assert (tmp_path / "data" / "msmt17_v2" / "info.json").read_text() == packed
    assert {path: path.stat().st_mtime_ns for path in raw.rglob("*")} == stamps


def test_a_manifest_without_cameras_is_told_which_rule_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    miniatures.write("manifest", tmp_path / "raw")
    monkeypatch.setenv("REID_DATASETS", str(tmp_path / "raw"))
    params = load(ROOT / "params.yaml")
    prepare.run(tmp_path, "manifest", params)
    assert "recipe.protocol.rule" not in capsys.readouterr().out
    file = tmp_path / "raw" / "manifest.csv"
    pd.read_csv(file).drop(columns="camera").to_csv(file, index=False)
    prepare.run(tmp_path, "manifest", params)
    assert "set in the profile's overrides: recipe.protocol.rule: query_gallery" in capsys.readouterr().out
