"""Images per second and core of packing, against a plain loop that opens, decodes and resizes the files with Pillow.

    taskset -c 0 python benchmarks/prepare.py          2,000 JPEGs of 128 x 64: half a minute
    python benchmarks/prepare.py --full                20,000
    python benchmarks/prepare.py --folder /tmp/jpegs   draw them there, or use those that are there

`bare` is the loop in one process; `bare, written` also writes its result to a file, as packing does, which hashes,
checks and keeps a journal too. All take turns, round after round. Speeds are medians over the rounds of images over
seconds of CPU time (of all processes), which other work on the machine and waiting for the disk hardly move; a ratio
is that to the loop in the same round. `wall` is images over seconds on the clock. Sources of one size are packed at
that size, so in the second case one image of another size is among them.
"""

import argparse
import multiprocessing
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from reid.data.decode import decoding
from reid.data.manifest import Record
from reid.data.pack import pack

SOURCE, LARGE, ODD = (128, 64), (256, 128), (127, 64)
ODD_NAME = "0.jpg"  # the first in the manifest's order: the size to pack at is known before the others are decoded
BARE, WRITTEN = "bare", "bare, written"

Step = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="20,000 images instead of 2,000")
    parser.add_argument("--folder", type=Path, help="where the images are, or are drawn; a temporary one otherwise")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    count = 20_000 if arguments.full else 2_000
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary) / "images"
        draw(folder, count)
        work = Path(temporary)
        for size in (SOURCE, LARGE):
            print_speed(folder, work, count, size, rounds=arguments.rounds)
        print("\npeak memory of packing with one worker, beyond that at its start:")
        for images in (count // 4, count):
            print(f"  {images:,} images: {memory(folder, work, images):.0f} MB")


def draw(folder: Path, count: int) -> None:
    """Smooth random pictures: about as many bytes as a photograph of that size; and one of another size."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        file = folder / f"{number:05}.jpg"
        if not file.exists():
            coarse = np.random.default_rng(number).integers(0, 256, (16, 8, 3), dtype=np.uint8)
            smooth = Image.fromarray(coarse).resize(SOURCE[::-1], Image.Resampling.BICUBIC)
            smooth.save(file, quality=92)
    with Image.open(folder / "00000.jpg") as image:
        image.resize(ODD[::-1]).save(folder / ODD_NAME)


def records(count: int, size: tuple[int, int]) -> list[Record]:
    names = [f"{number:05}.jpg" for number in range(count)]
    if size != SOURCE:
        names[0] = ODD_NAME
    return [Record(name, 1, 1, "train") for name in names]


def bare(folder: Path, count: int, size: tuple[int, int], target: Path | None) -> None:
    with open(target or os.devnull, "wb") as file:
        for record in records(count, size):
            with Image.open(folder / record.path) as image:
                converted = image.convert("RGB")
            if size != SOURCE:
                converted = converted.resize(size[::-1], Image.Resampling.BILINEAR)
            pixels = np.asarray(converted)
            if target is not None:
                file.write(pixels.data)


def packed(folder: Path, work: Path, count: int, size: tuple[int, int], workers: int) -> None:
    info = pack(folder, records(count, size), work / "synthetic", image_size=size, workers=workers)
    assert info.shape == (count, *size, 3)


def print_speed(folder: Path, work: Path, count: int, size: tuple[int, int], *, rounds: int) -> None:
    cores = len(os.sched_getaffinity(0))
    steps: dict[str, Step] = {
        BARE: lambda: bare(folder, count, size, None),
        WRITTEN: lambda: bare(folder, count, size, work / "bare"),
        "packed, 1 worker": lambda: packed(folder, work, count, size, 1),
    }
    if cores > 1:
        steps[f"packed, {cores} workers"] = lambda: packed(folder, work, count, size, cores)
    cpu: dict[str, list[float]] = {name: [] for name in steps}
    wall: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 1):  # the first one warms up
        for name in sorted(steps, key=lambda name: (list(steps).index(name) + number) % len(steps)):
            clear(work)
            seconds, on_the_clock = timed(steps[name])
            if number:
                cpu[name].append(seconds)
                wall[name].append(on_the_clock)
    print(f"\n{count:,} JPEGs of {SOURCE[0]} x {SOURCE[1]}, packed at {size[0]} x {size[1]}\n")
    print(f"| | images/s and core | to {BARE} | to {WRITTEN} | wall, images/s |\n|---|---|---|---|---|")
    for name in steps:
        ratios = " | ".join(f"{ratio(cpu[base], cpu[name]):.2f}" for base in (BARE, WRITTEN))
        speed, clock = (count / statistics.median(values[name]) for values in (cpu, wall))
        print(f"| {name} | {speed:,.0f} | {ratios} | {clock:,.0f} |")


def ratio(base: list[float], ours: list[float]) -> float:
    return statistics.median(one / other for one, other in zip(base, ours, strict=True))


def clear(work: Path) -> None:
    """What the last step wrote: to free it is not part of the next."""
    (work / "bare").unlink(missing_ok=True)
    shutil.rmtree(work / "synthetic", ignore_errors=True)


def timed(step: Step) -> tuple[float, float]:
    """Seconds of CPU time, of this process and those that it started, and seconds on the clock."""
    before, started = cpu_seconds(), time.perf_counter()
    with decoding():  # the settings of memory that packing has: the bare loop gains as much from them
        step()
    return cpu_seconds() - before, time.perf_counter() - started


def cpu_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def memory(folder: Path, work: Path, count: int) -> float:
    """MB that a new process has at its peak while it packs, over what it had before."""
    clear(work)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(peak, folder, work, count).result()


def peak(folder: Path, work: Path, count: int) -> float:
    before = resident()
    packed(folder, work, count, LARGE, 1)
    return resident() - before


def resident() -> float:
    """The most memory that this process has had so far, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


if __name__ == "__main__":
    main()
