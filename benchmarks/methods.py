"""What a method costs: its training step (forward, losses, backward) as a ratio to a plain ResNet's.

The plain step is the same trunk (last stride 1) with average pooling, one linear classifier and cross-entropy. Methods
are timed in turn, round after round, in an order that rotates, and each is compared with the plain step of its own
round, so that a busy machine slows both; the table shows medians.

    python benchmarks/methods.py                                          ResNet-50 at 384 x 128, batch 16
    python benchmarks/methods.py --backbone resnet18 --size 128 64        seconds on a laptop
    python benchmarks/methods.py --methods bdb:default bdb:gap --device cuda --precision bf16 --batch 128
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from reid import methods
from reid.losses import cross_entropy
from reid.parts.backbone import BACKBONES, build_trunk
from reid.parts.pooling import global_average

NUM_IDS = 751
IMAGES = 4


class Plain(nn.Module):
    """The trunk, average pooling, a classifier."""

    def __init__(self, backbone: str) -> None:
        super().__init__()
        self.trunk = build_trunk(backbone, layout="stride1")
        self.classifier = nn.Linear(self.trunk.channels, NUM_IDS)

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Cross-entropy alone."""
        return {"id": cross_entropy(self.classifier(global_average(self.trunk(images))), labels)}


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    images, labels = batch(arguments)
    steps = {
        name: training_step(network, images, labels, bf16=arguments.precision == "bf16")
        for name, network in networks(arguments).items()
    }
    seconds = time_in_turn(steps, rounds=arguments.rounds, device=arguments.device)
    print_table(seconds, arguments)


def parse() -> argparse.Namespace:
    every = [f"{name}:default" for name in methods.names()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=every, metavar="METHOD:VARIANT")
    parser.add_argument("--backbone", choices=sorted(BACKBONES), default="resnet50")
    parser.add_argument("--size", type=int, nargs=2, default=(384, 128), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch", type=int, default=16, help=f"a multiple of {IMAGES}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def batch(arguments: argparse.Namespace) -> tuple[Tensor, Tensor]:
    images = torch.randn(arguments.batch, 3, *arguments.size, device=arguments.device)
    labels = torch.arange(arguments.batch // IMAGES, device=arguments.device).repeat_interleave(IMAGES)
    return images.contiguous(memory_format=torch.channels_last), labels


def networks(arguments: argparse.Namespace) -> dict[str, nn.Module]:
    built: dict[str, nn.Module] = {"plain": Plain(arguments.backbone)}
    for choice in arguments.methods:
        name, _, variant = choice.partition(":")
        built[choice] = methods.build(name, variant or "default", num_ids=NUM_IDS, backbone=arguments.backbone)
    return {name: network.to(arguments.device).to(memory_format=torch.channels_last) for name, network in built.items()}


def training_step(network: nn.Module, images: Tensor, labels: Tensor, *, bf16: bool) -> Callable[[], None]:
    def step() -> None:
        network.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            losses = network(images, labels)
        torch.autograd.backward(torch.stack(list(losses.values())).sum())

    return step


def time_in_turn(steps: dict[str, Callable[[], None]], *, rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of every step in every round; the first round warms up and is not kept."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for turn in range(rounds + 1):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            started = time.perf_counter()
            steps[name]()
            if device != "cpu":
                torch.accelerator.synchronize()
            seconds[name].append(time.perf_counter() - started)
    return {name: values[1:] for name, values in seconds.items()}


def print_table(seconds: dict[str, list[float]], arguments: argparse.Namespace) -> None:
    height, width = arguments.size
    print(
        f"{arguments.backbone} {height}x{width}, batch {arguments.batch}, {arguments.precision} on {arguments.device}, "
        f"{arguments.threads} thread(s), median of {arguments.rounds} rounds, torch {torch.__version__}\n"
    )
    print("| step | ms | images/s | ratio to plain |\n| --- | ---: | ---: | ---: |")
    for name, values in seconds.items():
        ratio = statistics.median(value / plain for value, plain in zip(values, seconds["plain"], strict=True))
        median = statistics.median(values)
        print(f"| {name} | {1000 * median:.0f} | {arguments.batch / median:.1f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
