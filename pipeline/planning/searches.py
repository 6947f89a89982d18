"""How a search asks for trials, as data: what it may try, when it stops one, and what it seeks."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from pipeline.planning.metrics import Metric
from pipeline.planning.strict import Section, nearest
from reid.config import Count, Range

SECONDS = "step_seconds"  # the one objective that is no metric and is to be small
Objective = Metric | Literal["step_seconds"]
Value = float | int | str | bool | None
Point = Mapping[str, Value]  # a search's settings by dotted path


class Space(Section):
    """The values a search may give one setting: `choices`, or `low` to `high`, in steps or on a logarithmic scale.

    `when`: asked for only where these other settings have that value, or one of a list. They come before it in the
    space, or are fixed by the row.
    """

    low: float | int | None = None
    high: float | int | None = None
    step: float | int | None = None
    log: bool = False
    choices: tuple[Value, ...] | None = None
    when: dict[str, Value | tuple[Value, ...]] = Field(default_factory=dict)

    def holds(self, value: Value) -> bool:
        """Whether the setting may have this value."""
        if self.choices is not None:
            return value in self.choices
        assert self.low is not None
        assert self.high is not None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / self.step if self.step else 0.0
        return abs(steps - round(steps)) < 1e-8

    def __str__(self) -> str:
        if self.choices is not None:
            return ", ".join(map(str, self.choices))
        return f"{self.low:g} to {self.high:g}" + (f" in steps of {self.step:g}" if self.step else "")

    @model_validator(mode="after")
    def _one_form(self) -> "Space":
        if self.choices is not None:
            if len(self.choices) < 2 or not self.model_fields_set <= {"choices", "when"}:
                raise ValueError("choices are two or more, and then nothing else is given")
            return self
        if self.low is None or self.high is None or self.low >= self.high:
            raise ValueError("give choices, or low and a greater high")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise ValueError(f"step is {self.step:g}; allowed: above 0, up to {self.high - self.low:g}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("with log, low must be above 0 and there is no step")
        return self


class Pruning(Section):
    """When a trial that falls behind those it sees is stopped early.

    `halving`: after a `start` share of its epochs, and then each time the epochs have grown by `factor`, a trial
    outside the best 1 / `factor` is stopped (ASHA; Li et al., MLSys 2020). `median`: from a `warm_up` share of its
    epochs on, a trial whose best is below the median of the others at this epoch is stopped, once `startup_trials` of
    them have run to their end (Golovin et al., KDD 2017).
    """

    kind: Literal["halving", "median"] = "halving"
    start: Annotated[float, Range(0.01, 1.0)] | None = None
    factor: Annotated[int, Range(2)] | None = None
    startup_trials: Count | None = None
    warm_up: Annotated[float, Range(0.0, 1.0)] | None = None

    @model_validator(mode="after")
    def _its_own(self) -> "Pruning":
        wanted = {"start", "factor"} if self.kind == "halving" else {"startup_trials", "warm_up"}
        if self.model_fields_set - {"kind"} != wanted:
            raise ValueError(f"{self.kind} takes {' and '.join(sorted(wanted, reverse=True))}, and nothing else")
        return self


class Search(Section):
    """How a search asks for trials; all of them are scored on held-out identities of the training set, with one seed.

    `space`: dotted path to the values it may take; an element of a list is `model.block_plus[0]`. `trials` and
    `gpu_hours`: it asks no more once either is used up, nor when every point has been tried. `objective`: one metric,
    or several objectives, of which the first decides; `step_seconds` is the median time of a training step.
    `startup_trials` are drawn at random, then `tpe`, `gp` (a Gaussian process) or `cmaes` begins. `first`: the point to
    begin with. `lag`: a trial sees the outcomes of those that many numbers before it and earlier, so that `lag` can
    run side by side. `top`: so many of the best are trained on all training identities and tested.
    """

    space: dict[str, Space]
    trials: Count | None = None
    gpu_hours: Annotated[float, Range(1e-6)] | None = None
    objective: Objective | tuple[Objective, ...] = "mAP"
    sampler: Literal["tpe", "random", "grid", "gp", "cmaes"] = "tpe"
    startup_trials: Count = 4
    lag: Count = 1
    pruning: Pruning | None = None
    seed: Annotated[int, Range(0)] = 0
    first: dict[str, Value] = Field(default_factory=dict)
    top: Count = 1

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What is sought, the one that decides first."""
        return self.objective if isinstance(self.objective, tuple) else (self.objective,)

    @model_validator(mode="after")
    def _coherent(self) -> "Search":
        if self.trials is None and self.gpu_hours is None and self.sampler != "grid":
            raise ValueError("give trials, gpu_hours or both; only the sampler grid knows its end")
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise ValueError("objective: give at least one, and none twice")
        if self.objectives[0] == SECONDS:
            raise ValueError(f"objective: the first decides and is a metric; {SECONDS} may come after it")
        if self.pruning is not None and len(self.objectives) > 1:
            raise ValueError("pruning judges by one objective, and there are several: leave it out")
        rough = [path for path, space in self.space.items() if space.choices is None and space.step is None]
        if self.sampler == "grid" and rough:
            raise ValueError(f"the sampler grid needs choices or a step for {', '.join(rough)}")
        for problem in (*_no_place_for_cmaes(self), *_bad_conditions(self.space), *_bad_first(self.first, self.space)):
            raise ValueError(problem)
        return self


def asked(space: Space, point: Point) -> bool:
    """Whether a setting is asked for, given those before it."""
    return all(path in point and point[path] in listed(wanted) for path, wanted in space.when.items())


def inner(space: Mapping[str, Space]) -> dict[str, Space]:
    """The space with those conditions alone that are on settings of its own."""
    return {path: own.model_copy(update={"when": _within(own.when, space)}) for path, own in space.items()}


def _within(conditions: Mapping[str, Any], space: Mapping[str, Space]) -> dict[str, Any]:
    return {path: wanted for path, wanted in conditions.items() if path in space}


def listed(wanted: Value | tuple[Value, ...]) -> tuple[Value, ...]:
    """The values of a condition, one or several."""
    return wanted if isinstance(wanted, tuple) else (wanted,)


def _no_place_for_cmaes(search: Search) -> Iterator[str]:
    """It moves a cloud of points through several numbers that are always there, towards one objective."""
    if search.sampler != "cmaes":
        return
    others = [path for path, space in search.space.items() if space.choices is not None or space.when]
    if others:
        yield f"the sampler cmaes takes numbers without conditions alone, not {', '.join(others)}"
    elif len(search.space) < 2 or len(search.objectives) > 1:
        yield "the sampler cmaes needs two settings or more, and one objective"


def _bad_conditions(space: Mapping[str, Space]) -> Iterator[str]:
    """Conditions on a setting of the space that comes too late, or on a value that it never has."""
    order = list(space)
    for path, own in space.items():
        for other in (name for name in own.when if name in space):
            where = f"space.{path}.when"
            if order.index(other) >= order.index(path):
                circle = path == other or path in _behind(other, space)
                yield f"{where}: {other} " + ("waits for it in turn" if circle else f"must come before {path}")
            for value in listed(own.when[other]):
                if not space[other].holds(value):
                    yield f"{where}: {other} is never {value!r}; allowed: {space[other]}"


def _behind(path: str, space: Mapping[str, Space]) -> set[str]:
    """The settings that this one's conditions lead to."""
    found: set[str] = set()
    queue = [path]
    while queue:
        new = {name for name in space[queue.pop()].when if name in space} - found
        found |= new
        queue += new
    return found


def _bad_first(first: Point, space: Mapping[str, Space]) -> Iterator[str]:
    """A first point is complete, and one that the search could ask for."""
    space = inner(space)
    for path in first:
        if path not in space:
            yield f"first.{path} is not in the space{nearest(path, space)}"
        elif not space[path].holds(first[path]):
            yield f"first.{path} is {first[path]!r}; allowed: {space[path]}"
        elif not asked(space[path], first):
            yield f"first.{path} is not asked for there: see its when"
    for path, own in space.items():
        if first and path not in first and asked(own, first):
            yield f"first.{path} is missing; allowed: {own}"
