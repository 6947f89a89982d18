"""Addresses of MLflow's pages; that MLflow serves them is test_tracking's."""

import json
from urllib.parse import parse_qs

import pytest

from pipeline.reporting.links import home_url, run_url, runs_url

UI = "http://127.0.0.1:5000"


def route(url: str) -> tuple[str, dict[str, list[str]]]:
    """The part after the hash, as MLflow's page takes it apart."""
    path, _, query = url.partition("#")[2].partition("?")
    return path, parse_qs(query)


def test_a_run() -> None:
    assert run_url(UI, "3", "ab12") == f"{UI}/#/experiments/3/runs/ab12?workflowType=machine_learning"


def test_home() -> None:
    assert home_url(UI) == f"{UI}/#/experiments?workflowType=machine_learning"


def test_runs_are_compared() -> None:
    path, query = route(runs_url(UI, "3", ["ab12", "cd34", "ef56"]))
    assert path == "/compare-runs"
    assert json.loads(query["runs"][0]) == ["ab12", "cd34", "ef56"]
    assert json.loads(query["experiments"][0]) == ["3"]
    assert query["workflowType"] == ["machine_learning"]


def test_a_single_run_needs_no_comparison() -> None:
    assert runs_url(UI, "3", ["ab12"]) == run_url(UI, "3", "ab12")


def test_no_run_is_an_error() -> None:
    with pytest.raises(ValueError, match="no run is given"):
        runs_url(UI, "3", [])


def test_a_slash_after_the_server_is_not_doubled() -> None:
    assert run_url(f"{UI}/", "3", "ab12") == run_url(UI, "3", "ab12")
    assert runs_url(f"{UI}/", "3", ["a", "b"]) == runs_url(UI, "3", ["a", "b"])


@pytest.mark.parametrize("strange", ['"><script>', "a b&c#d?e/f%g'"])
def test_nothing_in_an_id_leaves_its_place(strange: str) -> None:
    path, query = route(runs_url(UI, "3", [strange, "x"]))
    assert path == "/compare-runs"
    assert json.loads(query["runs"][0]) == [strange, "x"]
    for url in (run_url(UI, strange, strange), runs_url(UI, strange, [strange, "x"])):
        assert not set("<>\"' ") & set(url)
        assert url.count("#") == url.count("?") == 1
