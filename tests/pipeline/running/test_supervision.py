"""Which failure is tried again, what a worker starts from, and what signals ask for."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from pipeline.running.supervision import (
    Cause,
    InterruptedSweep,
    Interrupts,
    Watch,
    alone_in,
    cause_of,
    claim,
    last_words,
    mourned,
    tries_again,
)
from reid.train import DivergedError


@pytest.mark.parametrize("cause", [Cause.LOST, Cause.TIMEOUT, Cause.READ_WRITE, Cause.NETWORK_DAMAGED])
def test_what_comes_from_outside_is_tried_again_a_number_of_times(cause: Cause) -> None:
    assert tries_again(cause, [], 2)
    assert tries_again(cause, [Cause.TIMEOUT], 2)
    assert not tries_again(cause, [Cause.TIMEOUT, Cause.LOST], 2)
    assert tries_again(cause, [Cause.TIMEOUT, Cause.PREEMPTED, Cause.PREEMPTED], 2)
    assert not tries_again(cause, [], 0)


def test_out_of_memory_is_tried_again_once() -> None:
    assert tries_again(Cause.MEMORY, [Cause.LOST], 5)
    assert not tries_again(Cause.MEMORY, [Cause.MEMORY, Cause.LOST], 5)
    assert not tries_again(Cause.MEMORY, [], 0)


@pytest.mark.parametrize("cause", [Cause.DIVERGED, Cause.ERROR, Cause.NO_ROOM])
def test_what_would_come_again_is_not_tried_again(cause: Cause) -> None:
    assert not tries_again(cause, [], 5)


def test_preemption_is_no_failure() -> None:
    assert tries_again(Cause.PREEMPTED, [Cause.PREEMPTED] * 9, 0)


def too_large() -> Exception:
    try:
        torch.empty(10**15)
    except RuntimeError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (DivergedError("nan"), Cause.DIVERGED),
        (torch.OutOfMemoryError("CUDA"), Cause.MEMORY),
        (MemoryError(), Cause.MEMORY),
        (too_large(), Cause.MEMORY),
        (OSError(errno.ENOSPC, "No space left on device"), Cause.NO_ROOM),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), Cause.NO_ROOM),
        (OSError(errno.EIO, "Input/output error"), Cause.READ_WRITE),
        (ConnectionResetError("gone"), Cause.READ_WRITE),
        (RuntimeError("shapes do not fit"), Cause.ERROR),
        (KeyError("x"), Cause.ERROR),
    ],
)
def test_every_exception_has_its_cause(error: Exception, cause: Cause) -> None:
    assert cause_of(error) is cause


def dies(code: str, folder: Path) -> tuple[int, float]:
    """How a process ends that runs this code inside a `Watch`, and after how many seconds of it."""
    script = (
        "import os, re, signal, sys, time; from pathlib import Path; from pipeline.running.supervision import Watch\n"
        "folder = Path(sys.argv[1])\n"
        "(folder / 'began').write_text('')\n" + code
    )
    process = subprocess.run([sys.executable, "-c", script, folder], check=False, timeout=60)
    return process.returncode, time.time() - (folder / "began").stat().st_mtime


@pytest.mark.parametrize("hang", ["time.sleep(99)", "re.match('(a+)+$', 'a' * 64 + 'b')"], ids=["sleeps", "holds"])
@pytest.mark.parametrize("limits", ["trial_seconds=1, silent_seconds=9", "trial_seconds=None, silent_seconds=1"])
def test_a_hung_process_is_ended_and_says_where_it_hung(tmp_path: Path, hang: str, limits: str) -> None:
    code, seconds = dies(f"with Watch(folder, {limits}) as watch:\n    {hang}", tmp_path)
    assert code == 1
    assert 1 <= seconds < 8
    words = last_words(tmp_path)
    assert words is not None
    assert words.cause is Cause.TIMEOUT
    wanted = "an attempt may take" if "trial_seconds=1" in limits else "no epoch ended within"
    assert words.reason == f"timeout: {wanted} {1 / 60:g} min"
    assert 'File "<string>", line 5' in words.detail


def test_signs_of_life_wind_the_clock_up_but_not_for_ever(tmp_path: Path) -> None:
    beat = "    while True:\n        time.sleep(0.1); watch.alive()\n"
    code, seconds = dies(f"with Watch(folder, trial_seconds=2, silent_seconds=1) as watch:\n{beat}", tmp_path)
    assert code == 1
    assert 2 <= seconds < 9
    assert "an attempt may take" in str(last_words(tmp_path))


def test_sigterm_leaves_a_mark_and_does_what_it_did_before(tmp_path: Path) -> None:
    code, _ = dies(
        "signal.signal(signal.SIGTERM, lambda *_: os._exit(7))\n"
        "with Watch(folder, trial_seconds=None, silent_seconds=None):\n"
        "    os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)",
        tmp_path,
    )
    assert code == 7
    words = last_words(tmp_path)
    assert words is not None
    assert words.cause is Cause.PREEMPTED


def test_a_trial_that_ends_in_time_leaves_nothing(tmp_path: Path) -> None:
    with Watch(tmp_path, trial_seconds=2, silent_seconds=2) as watch:
        watch.alive()
        assert last_words(tmp_path) is None  # what would be said is there, but nothing has happened
    time.sleep(2.2)
    assert list(tmp_path.iterdir()) == []


def test_a_second_worker_waits_until_the_first_is_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys, time; from pathlib import Path; from pipeline.running.supervision import alone_in\n"
        "with alone_in(Path(sys.argv[1])): print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        first.stdout.readline()
        with monkeypatch.context() as patch:
            patch.setattr("pipeline.running.supervision._LOCK_SECONDS", 0.2)
            with pytest.raises(TimeoutError, match="another process works on this trial"), alone_in(tmp_path):
                pass
        first.kill()
    with alone_in(tmp_path):
        pass


# --- the process of a trial ------------------------------------------------------------------------------------------


def test_a_trial_without_gpus_sees_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "7")
    threads = torch.get_num_threads()
    claim(cpus=1, gpus=0)
    assert (os.environ["CUDA_VISIBLE_DEVICES"], os.environ["OMP_NUM_THREADS"]) == ("", "1")
    assert torch.get_num_threads() == 1
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("gpus", "fraction"), [(0.25, 0.25), (1.0, 1.0)])
def test_a_share_of_a_gpu_is_a_share_of_its_memory(
    monkeypatch: pytest.MonkeyPatch, gpus: float, fraction: float
) -> None:
    taken: list[float] = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", taken.append)
    threads = torch.get_num_threads()
    claim(cpus=1, gpus=gpus)
    torch.set_num_threads(threads)
    assert taken == [fraction]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"


def test_nothing_of_the_trial_before_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    claim(cpus=1, gpus=0)
    fresh = _globals()
    torch.set_num_threads(2)
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("medium")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = True
    torch.manual_seed(9)
    assert not set(_globals()) & set(fresh)
    claim(cpus=1, gpus=0)
    assert _globals() == fresh
    torch.set_num_threads(threads)


def _globals() -> list[tuple[str, object]]:
    return [
        ("threads", torch.get_num_threads()),
        ("gradients", torch.is_grad_enabled()),
        ("type", torch.get_default_dtype()),
        ("precision", torch.get_float32_matmul_precision()),
        ("deterministic", torch.are_deterministic_algorithms_enabled()),
        ("benchmark", torch.backends.cudnn.benchmark),
        ("cudnn", torch.backends.cudnn.deterministic),
        ("numbers", float(torch.rand(()).double())),
    ]


# --- signals ---------------------------------------------------------------------------------------------------------


def test_where_nothing_runs_a_signal_ends_the_sweep_at_once() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(InterruptedSweep), Interrupts(exit_code=3):  # noqa: PT012 - the signal is what raises
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
    assert signal.getsignal(signal.SIGTERM) is before


def test_where_trials_run_ctrl_c_drains_and_then_stops(capfd: pytest.CaptureFixture[str]) -> None:
    drained: list[bool] = []
    with Interrupts(exit_code=3) as interrupts, interrupts.heeded(drain=lambda: drained.append(True)):
        os.kill(os.getpid(), signal.SIGINT)
        assert (drained, interrupts.stopped) == ([True], False)
        os.kill(os.getpid(), signal.SIGINT)
        assert (drained, interrupts.stopped) == ([True], True)
    said = capfd.readouterr().err
    assert said.index("Ctrl-C again stops them now") < said.index("SIGINT: stopping now")


def test_a_process_that_would_not_stop_is_ended(tmp_path: Path) -> None:
    code = (
        "import os, signal, time; from pipeline.running import supervision\n"
        "supervision._STOP_SECONDS = 0.5\n"
        "with supervision.Interrupts(3) as interrupts, interrupts.heeded(drain=print):\n"
        "    os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30, capture_output=True).returncode == 3


def test_children_are_killed_with_their_parent(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys; from pipeline.running.supervision import mourned\n"
        "with mourned():\n"
        "    child = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
        "    print(child.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=False, timeout=30, capture_output=True).stdout
    path = Path("/proc") / printed.decode().strip()
    deadline = time.monotonic() + 10
    while path.exists() and "Z" not in (path / "stat").read_text().split(")")[1]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_mark_goes_with_the_block() -> None:
    with mourned():
        assert "REID_SWEEP" in os.environ
    assert "REID_SWEEP" not in os.environ
