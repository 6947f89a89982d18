"""What a search saves: epochs until it has found as good a setting as random search finds in 60 trials.

Nothing is trained: a trial's learning curve is made up from its settings, with a planted optimum, wiggles of its own
and a speed that says little about its end, so that stopping early can go wrong. Both searches are asked for their
trials as a sweep asks, one after the other. The figure is the epochs spent until a trial that ran to its end is as good
as random search's best, as a share of the epochs of those 60 trials: the median over seeds, and the range.

    python benchmarks/search.py                            ten seeds, seconds
    python benchmarks/search.py --seeds 30 --lag 4         four trials side by side
"""

import argparse
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pipeline.planning.search import Outcome, most, propose, stopped_at
from pipeline.planning.searches import Pruning, Search, Space, Value

EPOCHS = 40
RANDOM_TRIALS = 60
SPACE = {
    "recipe.schedule.peak_lr": Space(low=1e-4, high=1e-1, log=True),
    "model.rh": Space(low=0.05, high=0.95),
    "model.drop_probability": Space(low=0.0, high=1.0),
}
OPTIMUM = {"recipe.schedule.peak_lr": 8e-3, "model.rh": 0.35, "model.drop_probability": 0.25}
RANDOM = Search(space=SPACE, trials=RANDOM_TRIALS, sampler="random")
GUIDED = Search(space=SPACE, trials=200, startup_trials=8, pruning=Pruning(start=0.1, factor=3))


def main() -> None:
    arguments = parse()
    ratios = {
        name: [share_of_epochs(search, seed) for seed in range(arguments.seeds)]
        for name, search in guided(arguments.lag).items()
    }
    print(f"epochs until as good as the best of {RANDOM_TRIALS} random trials, of theirs; {arguments.seeds} seeds")
    for name, found in ratios.items():
        print(f"{name:24} median {statistics.median(found):.2f}, {min(found):.2f} to {max(found):.2f}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--lag", type=int, default=1, help="trials that run side by side")
    return parser.parse_args()


def guided(lag: int) -> dict[str, Search]:
    """The searches that are compared with random search."""
    median = Pruning(kind="median", startup_trials=4, warm_up=0.1)
    changes: dict[str, dict[str, Any]] = {
        "TPE + ASHA": {},
        "TPE + median": {"pruning": median},
        "TPE": {"pruning": None},
        "random + ASHA": {"sampler": "random"},
    }
    return {name: GUIDED.model_copy(update={"lag": lag, **change}) for name, change in changes.items()}


def share_of_epochs(search: Search, seed: int) -> float:
    """Epochs that `search` spends to equal random search's best, as a share of random search's; 2 if it never does."""
    target = max(value for _, value in tried(RANDOM, seed))
    spent = 0
    for epochs, value in tried(search, seed):
        spent += epochs
        if value >= target:
            return spent / (RANDOM_TRIALS * EPOCHS)
    return 2.0


def tried(search: Search, seed: int) -> Iterator[tuple[int, float]]:
    """The search with instant trials: of each its epochs and, if it ran to its end, its value (else 0)."""
    search = search.model_copy(update={"seed": seed})
    outcomes: list[Outcome] = []
    for number in range(most(search)):
        seen = outcomes[: max(0, number - search.lag + 1)]
        params = propose(search, number, seen=seen, taken=[outcome.params for outcome in outcomes])
        curve = learning_curve(params, seed)
        last = stopped_at(search, curve, epochs=EPOCHS, seen=seen)
        shown = {epoch: value for epoch, value in curve.items() if last is None or epoch <= last}
        outcomes.append(Outcome(params, (shown[max(shown)],), shown, pruned=last is not None))
        yield len(shown), 0.0 if last else shown[EPOCHS]


def learning_curve(params: Mapping[str, Value], seed: int) -> dict[int, float]:
    """A made-up mAP by epoch: where it ends depends on the distance to the optimum, how fast on chance too."""
    distance = sum(
        ((place(path, params[path]) - place(path, OPTIMUM[path])) / width) ** 2 for path, width in WIDTHS.items()
    )
    draws = np.random.default_rng([seed, *np.frombuffer(repr(sorted(params.items())).encode(), np.uint8)])
    end = 0.8 * np.exp(-distance / 2) + draws.normal(0, 0.005)
    speed = draws.uniform(2, 6)
    epochs = np.arange(1, EPOCHS + 1)
    values = end * (1 - np.exp(-speed * epochs / EPOCHS)) / (1 - np.exp(-speed)) + draws.normal(0, 0.005, EPOCHS)
    return {int(epoch): float(value) for epoch, value in zip(epochs, values.clip(0, 1), strict=True)}


WIDTHS = {"recipe.schedule.peak_lr": 0.25, "model.rh": 0.3, "model.drop_probability": 0.4}  # of a unit range


def place(path: str, value: Value) -> float:
    """Where a value lies in its range, 0 to 1."""
    space = SPACE[path]
    low, high, own = (float(number) for number in (space.low, space.high, value))  # type: ignore[arg-type]
    if space.log:
        low, high, own = np.log([low, high, own])
    return float((own - low) / (high - low))


if __name__ == "__main__":
    main()
