"""What share of a machine each trial gets, and how many such shares machines hold. Needs neither torch nor Ray."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import Annotated

from pipeline.planning.words import counted
from reid.config import Count, Range, Settings


@dataclass(frozen=True, kw_only=True)
class Share(Settings):
    """What a trial gets: so many `processes` that share its batches, 1 as a rule, each with `cpus` threads and `gpus`.

    `gpus`: 0; 1; or a fraction of one, whose rest is for other trials. Nothing of it moves a result or a key.

    Raises:
        ValueError: a field is out of range, or fields do not go together.
    """

    cpus: Count
    gpus: Annotated[float, Range(0.0)]
    processes: Count

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gpus > 1:
            raise ValueError(
                f"gpus is {self.gpus:g}; allowed: 0 to 1, for each process; several GPUs are several processes: "
                f"gpus: 1, processes: {round(self.gpus) * self.processes}"
            )
        if self.processes > 1 and self.gpus not in (0, 1):
            raise ValueError(f"gpus is {self.gpus:g} with processes: {self.processes}; allowed: 0, or 1 for each")

    @property
    def all_cpus(self) -> int:
        """Of all its processes."""
        return self.processes * self.cpus

    @property
    def all_gpus(self) -> float:
        """Of all its processes."""
        return self.processes * self.gpus

    def __str__(self) -> str:
        own = f"cpus: {self.cpus}, gpus: {self.gpus:g}"
        return own if self.processes == 1 else f"{own}, processes: {self.processes}"


def largest(shares: Iterable[Share]) -> Share:
    """The largest of each field; where that makes several processes, a fraction of a GPU becomes a whole one."""
    values = [[getattr(share, field.name) for field in fields(Share)] for share in shares]
    cpus, gpus, processes = map(max, zip(*values, strict=True))
    return Share(cpus=cpus, gpus=float(gpus > 0) if processes > 1 else gpus, processes=processes)


@dataclass(frozen=True)
class Shares:
    """What the trials of a sweep get: `usual`, or what is said of an experiment, by its name."""

    usual: Share
    by_experiment: Mapping[str, Share]

    def of(self, experiments: Iterable[str], *, scores: bool = False) -> Share:
        """That of a trial.

        Args:
            experiments: those that show it; of several, it gets the largest of each field.
            scores: it trains nothing, and one process is enough.
        """
        found = {self.by_experiment.get(name, self.usual) for name in experiments} or {self.usual}
        share = largest(found) if len(found) > 1 else found.pop()
        return replace(share, processes=1) if scores and share.processes > 1 else share


@dataclass(frozen=True)
class Node:
    """What one machine has for trials."""

    cpus: int
    gpus: int

    def __str__(self) -> str:
        return f"{counted(self.cpus, 'core')} and {counted(self.gpus, 'GPU')}"

    def holds(self, share: Share) -> int:
        """How many processes of that share it has room for."""
        by_cpu = self.cpus // share.cpus
        return min(by_cpu, int(self.gpus / _of_one(share))) if share.gpus else by_cpu


def slots(share: Share, nodes: Sequence[Node]) -> int:
    """How many trials with that share run on these machines at a time; 0 if not even one does."""
    return sum(node.holds(share) for node in nodes) // share.processes


@dataclass(frozen=True)
class Machines:
    """What trials run on: so many at a time as fit, and no more than `concurrent` unless that is None.

    `asked` tells the machines of a cluster, which come and go; None: they stay as they are.
    """

    nodes: Sequence[Node]
    concurrent: int | None
    asked: Callable[[], Sequence[Node]] | None = None

    @property
    def grow(self) -> bool:
        """Whether machines may be added."""
        return self.asked is not None

    def now(self) -> Sequence[Node]:
        """Those of this moment."""
        return self.nodes if self.asked is None else self.asked()

    def at_once(self, share: Share) -> int:
        """Trials of a share that run at a time, on a cluster once it has grown; at least one."""
        fit = slots(share, self.nodes)
        return max(1, (self.concurrent or fit) if self.grow else min(fit, self.concurrent or fit))


@dataclass(frozen=True)
class Room:
    """What is free of some machines, as far as sums tell: that a trial fits nowhere for it is cut up, they do not."""

    cpus: int
    gpus: Fraction

    @classmethod
    def of(cls, nodes: Iterable[Node]) -> "Room":
        """All of these machines."""
        nodes = list(nodes)
        return cls(sum(node.cpus for node in nodes), Fraction(sum(node.gpus for node in nodes)))

    def holds(self, share: Share) -> bool:
        """Whether a trial with that share can start."""
        return share.all_cpus <= self.cpus and (not share.gpus or share.processes * _of_one(share) <= self.gpus)

    def without(self, share: Share) -> "Room":
        """What a trial with that share leaves; below nothing of what it lacks."""
        gpus = share.processes * _of_one(share) if share.gpus else 0
        return Room(self.cpus - share.all_cpus, self.gpus - gpus)


def _of_one(share: Share) -> Fraction:
    """What a process takes of a GPU for good: three of 0.3 fit on one, and a third it is."""
    return Fraction(1, int(1 / share.gpus + 1e-9))
