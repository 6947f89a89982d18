"""What fits on the machines of a cluster, which addresses there are, and what is said of machines that differ."""

import inspect
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.planning import keys
from pipeline.planning.shares import Share, slots
from pipeline.running import cluster, node
from pipeline.running.cluster import ClusterError, Needs, Node


def machine(cpus: int, gpus: int = 0) -> Node:
    return Node(cpus, gpus, id="0" * 56, address="10.0.0.3")


@pytest.mark.parametrize(
    ("cpus", "gpus", "share", "fit"),
    [
        (8, 0, (3, 0), 2),
        (8, 2, (1, 0.5), 4),
        (8, 2, (1, 0.4), 4),  # two on each GPU: a fifth of each is left, and no trial has parts of two
        (8, 1, (1, 0.1), 8),
        (64, 1, (1, 0.1), 10),
        (64, 1, (1, 1 / 3), 3),
        (64, 8, (4, 1), 8),
        (8, 0, (1, 0.5), 0),
        (0, 0, (1, 0), 0),  # a head that only looks after the others
    ],
)
def test_how_many_trials_fit_on_a_machine(cpus: int, gpus: int, share: tuple[int, float], fit: int) -> None:
    assert machine(cpus, gpus).holds(Share(cpus=share[0], gpus=float(share[1]), processes=1)) == fit


def test_a_process_is_not_cut_in_two_for_two_machines() -> None:
    share = Share(cpus=2, gpus=0.0, processes=1)
    assert slots(share, [machine(3), machine(3)]) == 2
    assert slots(share, [machine(1), machine(1)]) == 0


@pytest.mark.parametrize("address", ["auto", "127.0.0.1:6379", "head.example.org:6379", "[fd00::2]:6379"])
def test_addresses_of_a_head(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cluster.named(address) == address


@pytest.mark.parametrize("address", ["", "local", "head", "head:", "head:port", "fd00::2:6379", "a b:1", "head:6379/"])
def test_what_is_no_address_is_an_error_that_says_what_is(address: str) -> None:
    with pytest.raises(ClusterError, match="allowed: auto, or host:port of its head"):
        cluster.named(address)


@pytest.mark.parametrize("address", ["ray://head:10001", "http://127.0.0.1:8265", "https://ray.example.org"])
def test_another_kind_of_address_names_the_way_in(address: str) -> None:
    with pytest.raises(ClusterError, match=f"ray job submit --address {address} -- python -m pipeline sweep"):
        cluster.named(address)


def test_auto_and_a_job_mean_the_cluster_they_are_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    assert cluster.named("auto") == "10.0.0.2:6379"
    assert cluster.named(None) is None  # on a machine whose shell has that variable, too
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert cluster.named(None) == "10.0.0.2:6379"


def test_a_token_that_others_can_read_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "token"
    token.write_text("0" * 64)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    warning = f"warning: {token} can be read by other users of this machine: chmod 600 {token}\n"
    for mode, said in ((0o644, warning), (0o600, "")):
        token.chmod(mode)
        with pytest.raises(ClusterError, match=r"nobody answers at 127\.0\.0\.1:9"):
            cluster.reach("127.0.0.1:9")
        assert capsys.readouterr().err == said


def test_ray_still_says_what_its_refusals_are_known_by() -> None:
    import ray
    from ray._private import services, utils
    from ray._private.authentication import authentication_constants as tokens

    assert "no authentication token was found" in tokens.TOKEN_AUTH_ENABLED_BUT_NO_TOKEN_FOUND_ERROR_MESSAGE
    assert "Could not find any running Ray instance" in inspect.getsource(services.get_ray_address_from_environment)
    assert "Version mismatch" in inspect.getsource(utils.check_version_info)
    compiled = Path(ray.__file__).with_name("_raylet.so").read_bytes()
    assert b"expects this IP address" in compiled


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        (
            "ConnectionError: Could not find any running Ray instance. Please specify",
            "join one with `ray start --address",
        ),
        (
            "This node has an IP address of 10.0.0.9, and Ray expects this IP address to be",
            "this machine is no part of",
        ),
        (
            "Traceback\nOSError: a reason that nobody knows\n\n",
            "cannot be joined: OSError: a reason that nobody knows; see",
        ),
    ],
)
def test_a_refusal_is_said_in_one_line_with_what_to_do(said: str, remedy: str) -> None:
    line = cluster._refusal("10.0.0.2:6379", said)
    assert remedy in line
    assert "\n" not in line


# Machines that differ


EXPECTED: Mapping[str, Any] = {
    "host": "head",
    "commit": "0123456789abcdef",
    "python": "3.11.7",
    "torch": "2.15.0",
    "ray": "2.60.0",
    "code": "c0de",
    "token": True,
    "store": "mark",
    "data": {"market1501": "d1"},
    "cache": "~/.cache",
    "free": 10**11,
    "gpus": 0,
}


def test_a_machine_like_the_driver_s_is_fit() -> None:
    assert cluster.differences(machine(8, 4), EXPECTED, {**EXPECTED, "host": "other", "gpus": 4}) == []
    assert cluster.differences(machine(8), EXPECTED, {**EXPECTED, "gpus": None, "data": EXPECTED["data"]}) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"code": "beef", "commit": "fedcba987654"},
            r"other code .*commit fedcba987, here commit 012345678.*up to date",
        ),
        ({"code": "beef", "commit": ""}, r"commit unknown, here"),
        ({"python": "3.12.1"}, r"python 3\.12\.1, here 3\.11\.7: install requirements\.lock there"),
        ({"torch": "2.10.0"}, r"torch 2\.10\.0, here 2\.15\.0"),
        ({"ray": "2.59.0"}, r"ray 2\.59\.0, here 2\.60\.0"),
        ({"token": False}, r"anybody can run code there: start it with RAY_AUTH_MODE=token"),
        (
            {"store": "!FileNotFoundError: /mnt/x"},
            r"cannot be read and written \(FileNotFoundError: /mnt/x\): mount it",
        ),
        ({"store": "another"}, r"another trial store lies under the same name"),
        ({"data": {"market1501": "!data/market1501 has not been prepared"}}, r"has not been prepared \(or share"),
        ({"data": {"market1501": "d2"}}, r"market1501 is another version of the data set"),
        ({"free": 5 * 10**8}, r"500\.0 MB free on the disk of ~/\.cache: make room there"),
        ({"gpus": 1}, r"Ray counts 2 GPUs, torch sees 1: mend the driver"),
    ],
)
def test_what_differs_is_said_with_what_to_do(change: dict[str, Any], said: str) -> None:
    found = {**EXPECTED, "gpus": 2} | change
    (wrong,) = cluster.differences(machine(8, 2), EXPECTED, found)
    assert re.search(said, wrong), wrong


def needs(**changes: Any) -> Needs:
    shares = (Share(cpus=4, gpus=1.0, processes=1),)
    usual = {"store": "/nowhere", "data": None, "datasets": (), "cache": "~", "shares": shares, "concurrent": None}
    return Needs(**usual | changes)


def test_no_room_is_an_error_unless_the_cluster_may_grow(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        ClusterError, match=r"the largest of 2 machines has 8 cores and 0 GPUs; .*set sweep\.concurrent"
    ):
        cluster.admit([machine(8), machine(2)], needs())
    cluster.admit([machine(8), machine(2)], needs(concurrent=16))
    assert "waiting for it to grow" in capsys.readouterr().err


# What a machine says of itself


def test_a_report_names_what_is_there_and_what_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mark").write_text("unguessable")
    monkeypatch.setenv("RAY_AUTH_MODE", "TOKEN")
    asked: dict[str, Any] = {"data": str(tmp_path), "datasets": ["synthetic"], "cache": str(tmp_path), "gpus": False}
    found = node.report(store=str(tmp_path / "mark"), **asked)
    assert found["store"] == "unguessable"
    assert found["token"]
    assert found["gpus"] is None
    assert found["free"] > 0
    assert "run: python -m pipeline prepare synthetic" in found["data"]["synthetic"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mark"]
    assert node.report(store=str(tmp_path / "gone" / "mark"), **asked)["store"].startswith("!FileNotFoundError")


def test_a_store_in_memory_is_as_good_as_a_folder() -> None:
    """Any address that fsspec knows."""
    with cluster._marker("memory://store/trials") as path:
        first, second = (node.report(store=path, data=None, datasets=[], cache="~", gpus=True) for _ in range(2))
        assert len(first["store"]) == 32
        assert first["store"] == second["store"]
    assert node.report(store=path, data=None, datasets=[], cache="~", gpus=True)["store"].startswith(
        "!FileNotFoundError"
    )


def test_the_code_s_digest_moves_with_an_edit_of_any_file_and_not_with_a_comment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(keys.__file__).parents[2]
    for name in ("pipeline", "reid"):
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))

    def digest() -> str:
        keys._module.cache_clear()
        return keys.whole_digest()

    here = digest()
    monkeypatch.setattr(keys, "PACKAGE", tmp_path / "reid")
    monkeypatch.setattr(keys, "__file__", str(tmp_path / "pipeline" / "planning" / "keys.py"))
    assert digest() == here
    for path in [*tmp_path.glob("pipeline/*/"), *tmp_path.glob("reid/*/")]:  # the rest shows it sooner
        if path.name not in ("planning", "parts"):
            shutil.rmtree(path)
    here = digest()
    for name in ("pipeline/planning/words.py", "reid/parts/__init__.py"):
        file = tmp_path / name
        text = file.read_text()
        file.write_text(text + "\n# a remark\n")
        assert digest() == here
        file.write_text(text + "\nADDED = 1\n")
        assert digest() != here
        file.write_text(text)
    keys._module.cache_clear()
