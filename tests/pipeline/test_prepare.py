"""What the prepare stage refuses before it reads anything."""

from pathlib import Path

import pytest

from pipeline import prepare
from pipeline.params import load
from tests.conftest import ROOT


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
