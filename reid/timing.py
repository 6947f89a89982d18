"""How long training steps take, without making a GPU wait for the clock."""

import itertools
import statistics
import time

import torch


class Laps:
    """Times what lies between one `mark` and the next, on the device.

    On a GPU a mark is an event in the stream, so that steps are queued as fast as without it.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._events: list[torch.cuda.Event] = []
        self._times: list[float] = []

    def mark(self) -> None:
        """A lap ends here, and the next one begins."""
        if self._on_gpu:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self._events.append(event)
        else:
            self._times.append(time.perf_counter())

    def median(self) -> float:
        """Seconds of the median lap; on a GPU it waits for the last one. Two marks are the least."""
        if self._on_gpu:
            self._events[-1].synchronize()
            laps = [float(before.elapsed_time(after)) / 1000 for before, after in itertools.pairwise(self._events)]
        else:
            laps = [after - before for before, after in itertools.pairwise(self._times)]
        return statistics.median(laps)
