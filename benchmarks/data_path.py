"""Images per second of the packed data path, against decoding and transforming files one by one. Prints a table.

    python benchmarks/data_path.py

One thread, CPU time, medians, both sides in turn in the same run: read the ratio, not the absolute number. Both flip,
normalise and erase with probability 0.5. `packed` is the memory map indexed in random order, then `augment`; the floor
shown beside it is two passes of writing over one batch.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from reid.config import IMAGENET_MEAN, IMAGENET_STD, Augment
from reid.data.augment import augment
from reid.data.manifest import Record
from reid.data.pack import pack

SOURCE_SIZE = (128, 64)
SIZES = ((128, 64), (256, 128), (384, 128))
SETTINGS = Augment(flip=0.5, random_erasing=0.5)
PARTS = ("index", "augment", "floor")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        records = draw_images(root, arguments.images)
        print(f"{SOURCE_SIZE[0]}x{SOURCE_SIZE[1]} JPEG sources, batches of {arguments.batch}, one thread, images/s\n")
        print(f"| target | files, one by one | packed | ratio | {' | '.join(f'{part}, ms' for part in PARTS)} |")
        print("|---" * (4 + len(PARTS)) + "|")
        pack(root, records, root / "synthetic", image_size=SOURCE_SIZE, workers=1)
        images = np.load(root / "synthetic" / "images.npy", mmap_mode="r")
        for size in SIZES:
            files = [root / record.path for record in records]
            print(row(size, files, images, batch=arguments.batch, repeats=arguments.repeats))


def draw_images(root: Path, count: int) -> list[Record]:
    """Smooth random pictures: about as many bytes as a photograph of that size."""
    generator = np.random.default_rng(0)
    records = [Record(f"{number:05}.jpg", number + 1, 1, "train") for number in range(count)]
    for record in records:
        coarse = generator.integers(0, 256, (16, 8, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize(SOURCE_SIZE[::-1], Image.Resampling.BICUBIC)
        smooth.save(root / record.path, quality=92)
    return records


def row(size: tuple[int, int], files: list[Path], images: np.ndarray, *, batch: int, repeats: int) -> str:
    per_file = transforms.Compose(
        [
            transforms.Resize(size),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            transforms.RandomErasing(0.5),
        ]
    )
    generator, indices = torch.Generator().manual_seed(0), np.random.default_rng(0)
    seconds: dict[str, list[float]] = {name: [] for name in ("files", *PARTS)}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        started = time.process_time()
        yield
        seconds[name].append(time.process_time() - started)

    for _ in range(repeats + 1):  # the first round warms up
        chosen = indices.choice(len(files), batch, replace=False)
        with timed("files"):
            torch.stack([per_file(Image.open(files[index]).convert("RGB")) for index in chosen])
        with timed("index"):
            pixels = torch.from_numpy(images[chosen])
        with timed("augment"):
            augment(pixels, size, SETTINGS, generator)
        with timed("floor"):
            torch.zeros(batch, *size, 3).add_(1)
    cost = {name: median(values[1:]) for name, values in seconds.items()}
    packed = cost["index"] + cost["augment"]
    parts = " | ".join(f"{1000 * cost[name]:.2f}" for name in PARTS)
    ratio = f"{cost['files'] / packed:.1f}"
    return f"| {size[0]}x{size[1]} | {batch / cost['files']:,.0f} | {batch / packed:,.0f} | {ratio} | {parts} |"


if __name__ == "__main__":
    main()
