"""What a trial uses of the machine, as the system and torch count it, in a process that has run others before."""

import contextlib
import ctypes
import re
import time
from pathlib import Path

_PEAK = 5  # what resets the peak of the resident memory, see proc(5)


class Usage:
    """Counts from when it is made.

    Args:
        gpus: what the trial computes on; 0: none, and torch is not asked.
    """

    def __init__(self, *, gpus: float) -> None:
        self._gpus = gpus
        self._cpu = time.process_time()
        self._resets = _reset_peak()
        if gpus:
            import torch  # slow to import, and whoever asks for a GPU has it

            torch.cuda.reset_peak_memory_stats()

    def cpu_seconds(self) -> float:
        """Of the process, in user and in kernel mode, since the last time this was asked."""
        before, self._cpu = self._cpu, time.process_time()
        return self._cpu - before

    def peaks(self) -> dict[str, float]:
        """`peak_memory_mb`: resident, where the system tells; `peak_gpu_memory_mb`: allocated by torch, on a GPU."""
        found = {}
        status = Path("/proc/self/status")
        if self._resets and (peak := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
            found["peak_memory_mb"] = int(peak[1]) * 1024 / 1e6
        if self._gpus:
            import torch

            found["peak_gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 1e6
        return found


def _reset_peak() -> bool:
    """Let the recorded peak start anew; whether the system does that."""
    with contextlib.suppress(AttributeError, OSError):  # freed memory that the C library has kept is not this trial's
        ctypes.CDLL(None).malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text(str(_PEAK))
    except OSError:
        return False
    return True
