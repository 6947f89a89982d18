"""What a method costs: its training step (forward, losses, backward) as a ratio to a plain ResNet's and to a naive one.

The plain step is the same trunk (last stride 1) with average pooling, one linear classifier and cross-entropy. A naive
step has the method's losses, to the same values, as a first implementation gets them: see `naive.py`. Steps are timed
in turn, round after round, in an order that rotates, and compared with those of their own round, so that a busy machine
slows both; the table shows medians. `baseline` has no triplet loss and hence no slower form: its last column is noise.

    python benchmarks/methods.py                                         ResNet-50, 384 x 128, batch 16: half an hour
    python benchmarks/methods.py --backbone resnet10_w16 --size 192 64   seconds on a laptop
    python benchmarks/methods.py --methods bdb bdb:gap --device cuda --precision bf16 --batch 128 --no-naive

On CUDA, `extra MiB` is the highest memory during a step over that before it: activations, gradients, work space.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from naive import naive
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
    on_device = arguments.device != "cpu"
    print_table(seconds, {name: extra_memory(step) for name, step in steps.items()} if on_device else {}, arguments)


def parse() -> argparse.Namespace:
    every = [f"{name}:default" for name in methods.names()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=every, metavar="METHOD:VARIANT")
    parser.add_argument("--no-naive", action="store_true", help="leave out the naive forms, half of the time")
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
    """The plain one, and every method followed by its naive form."""
    built: dict[str, nn.Module] = {"plain": Plain(arguments.backbone)}
    for choice in arguments.methods:
        name, _, variant = choice.partition(":")
        method = methods.build(name, variant or "default", num_ids=NUM_IDS, backbone=arguments.backbone)
        built[choice] = method
        if not arguments.no_naive:
            built[naive_name(choice)] = naive(method)
    return {name: network.to(arguments.device).to(memory_format=torch.channels_last) for name, network in built.items()}


def naive_name(choice: str) -> str:
    return f"{choice}, naive"


def training_step(network: nn.Module, images: Tensor, labels: Tensor, *, bf16: bool) -> Callable[[], None]:
    def step() -> None:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            losses = network(images, labels)
        torch.autograd.backward(torch.stack(list(losses.values())).sum())
        network.zero_grad()  # no network holds gradients while another has its turn

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


def extra_memory(step: Callable[[], None]) -> float:
    """MiB, of torch's allocator."""
    before = torch.accelerator.memory_allocated()
    torch.accelerator.reset_peak_memory_stats()
    step()
    torch.accelerator.synchronize()
    return (torch.accelerator.max_memory_allocated() - before) / 2**20


def print_table(seconds: dict[str, list[float]], memory: dict[str, float], arguments: argparse.Namespace) -> None:
    height, width = arguments.size
    print(
        f"{arguments.backbone} {height}x{width}, batch {arguments.batch}, {arguments.precision} on {arguments.device}, "
        f"{arguments.threads} thread(s), median of {arguments.rounds} rounds, torch {torch.__version__}\n"
    )
    columns = ["step", "ms", "images/s", "ratio to plain"]
    columns += [] if arguments.no_naive else ["naive / ours"]
    columns += ["extra MiB"] if memory else []
    columns += ["naive: extra MiB"] if memory and not arguments.no_naive else []
    print(f"| {' | '.join(columns)} |\n| --- {'| ---: ' * (len(columns) - 1)}|")
    for name in ("plain", *arguments.methods):
        cells = row(name, seconds, memory, batch_size=arguments.batch)
        print(f"| {' | '.join(cells[column] for column in columns)} |")


def row(name: str, seconds: dict[str, list[float]], memory: dict[str, float], *, batch_size: int) -> dict[str, str]:
    """The cells of a method; those that were not measured are empty."""
    median, slow = statistics.median(seconds[name]), naive_name(name)
    return {
        "step": name,
        "ms": f"{1000 * median:.0f}",
        "images/s": f"{batch_size / median:.1f}",
        "ratio to plain": f"{ratio(seconds[name], seconds['plain']):.2f}",
        "naive / ours": f"{ratio(seconds[slow], seconds[name]):.2f}" if slow in seconds else "",
        "extra MiB": f"{memory[name]:.0f}" if memory else "",
        "naive: extra MiB": f"{memory[slow]:.0f}" if slow in memory else "",
    }


def ratio(seconds: list[float], reference: list[float]) -> float:
    """The median of the ratios within a round."""
    return statistics.median(one / other for one, other in zip(seconds, reference, strict=True))


if __name__ == "__main__":
    main()
