"""What a trial uses of the machine, as the system and torch count it, in a process that has run others before."""

import contextlib
import ctypes
import os
import re
import time
from pathlib import Path

_STATM = Path("/proc/self/statm")
_PEAK = 5  # what resets the peak of the resident memory, see proc(5)


class Usage:
    """Counts from when it is made.

    Args:
        cpus: threads of this process.
        gpus: what it computes on; 0: none, and torch is not asked.
    """

    def __init__(self, *, cpus: int, gpus: float) -> None:
        self._cpus, self._gpus = cpus, gpus
        self._cpu, self._epoch = time.process_time(), time.monotonic()
        self._resets = _reset_peak()
        if gpus:
            import torch  # slow to import, and whoever asks for a GPU has it

            torch.cuda.reset_peak_memory_stats()

    def cpu_seconds(self) -> float:
        """Of the process, in user and in kernel mode, since the last time this was asked."""
        before, self._cpu = self._cpu, time.process_time()
        return self._cpu - before

    def of_epoch(self) -> dict[str, float]:
        """Since the last epoch: `cpu_seconds`, and levels under the names by which MLflow knows metrics of a system.

        The processor's is a percentage of the threads that this process has, memory is what it holds, in MB.
        """
        before, self._epoch = self._epoch, time.monotonic()
        seconds = self.cpu_seconds()
        share = seconds / max(self._epoch - before, 1e-9) / self._cpus
        found = {"cpu_seconds": seconds, "system/cpu_utilization_percentage": 100 * share}
        if _STATM.exists():
            pages = int(_STATM.read_text().split()[1])
            found["system/system_memory_usage_megabytes"] = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
        if self._gpus:
            import torch

            found["system/gpu_0_memory_usage_megabytes"] = torch.cuda.memory_reserved() / 1e6
            with contextlib.suppress(ModuleNotFoundError, RuntimeError):  # NVML is not there, or does not say
                found["system/gpu_0_utilization_percentage"] = float(torch.cuda.utilization())
        return found

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
