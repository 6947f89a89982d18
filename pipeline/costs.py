"""What is still to be trained costs: hours, from what was measured, and room on the disk."""

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline import census
from pipeline.agenda import Agenda, SearchRun
from pipeline.plan import Trial
from pipeline.words import counted, duration, size
from reid.config import TrialConfig
from reid.train import build_method

# What an epoch counts as where none like it was ever trained: a minute for all of Market-1501 at 384 x 128.
_SECONDS, _IMAGES_AN_IDENTITY = 60.0, 17
_PIXELS = 751 * _IMAGES_AN_IDENTITY * 384 * 128
_RECORD_BYTES, _EPOCH_BYTES = 30_000, 250  # of a trial without networks, and of each of its epochs
_COPIES = {"adam": 3, "sgd": 2}  # of a network in its resumable state: itself and what the optimiser remembers of it


@dataclass(frozen=True)
class Work:
    """So many trials of a kind, each of so many epochs; none where a network is scored.

    `guess`: seconds an epoch is taken to last where none like it was ever trained.
    """

    kind: str
    trials: int
    epochs: int
    guess: float

    @property
    def units(self) -> int:
        """What paces are for: epochs, or scorings."""
        return self.trials * (self.epochs or 1)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the trials to run take, one after the other; what searches may still ask for is counted at their most.

    `hours`: of the trials that are declared; `search_hours`: of those that searches may add. `unmeasured`: epochs (for
    scorings: trials) by kind that nothing like was ever run of, in neither of the two. `cpu_hours`, `gpu_hours`: of all
    three, the unmeasured as guessed, and so is `ask_hours`. `weights_bytes`: of the networks that are kept, so
    long as others wait for them; `states_bytes`: of the trials that run at a time; `records_bytes`: of the rest.
    """

    hours: float
    search_hours: float
    unmeasured: dict[str, int]
    ask_hours: float
    cpu_hours: float
    gpu_hours: float
    weights_bytes: int
    states_bytes: int
    records_bytes: int
    free_bytes: int


def estimate(agenda: Agenda, *, cpus: int, gpus: float, concurrent: int, num_ids: Mapping[str, int]) -> Estimate:
    """What an agenda still costs.

    Args:
        agenda: of the sweep.
        cpus: that a trial gets.
        gpus: and its share of a GPU.
        concurrent: trials at a time.
        num_ids: training identities by data set.
    """
    paces = census.paces(agenda.store)
    todo = [
        Work(census.kind(trial.spec, gpus=gpus), 1, trial.epochs, guess(trial.config, _identities(trial, num_ids)))
        for trial in agenda.unfinished()
    ]
    later = [_to_come(run, paces, cpus=cpus, gpus=gpus, num_ids=num_ids) for run in agenda.searches if not run.final]
    unmeasured: dict[str, int] = {}
    guessed = 0.0
    for work in (*todo, *later):
        if work.kind not in paces:
            unmeasured[work.kind] = unmeasured.get(work.kind, 0) + work.units
            guessed += work.units * work.guess / 3600
    hours, search_hours = _hours(todo, paces), _hours(later, paces)
    total = hours + search_hours + guessed
    weights, states = _networks(agenda, num_ids, concurrent)
    return Estimate(
        hours=hours,
        search_hours=search_hours,
        unmeasured=unmeasured,
        ask_hours=total,
        cpu_hours=total * cpus,
        gpu_hours=total * gpus,
        weights_bytes=weights,
        states_bytes=states,
        records_bytes=sum(work.trials * (_RECORD_BYTES + work.epochs * _EPOCH_BYTES) for work in (*todo, *later)),
        free_bytes=shutil.disk_usage(_there(agenda.store.root)).free,
    )


def describe(cost: Estimate, *, concurrent: int) -> list[str]:
    """The estimate as lines for people."""
    wall = f", {duration(cost.hours * 3600 / concurrent)} with {concurrent} at a time" if concurrent > 1 else ""
    searches = f"; searches at most {duration(cost.search_hours * 3600)} more" if cost.search_hours else ""
    measured = f"time: {duration(cost.hours * 3600)} of one trial after the other{wall}{searches}, as measured here"
    lines = [measured] if cost.hours or cost.search_hours else []
    lines += [f"time unknown, never measured here: {number:,} x {kind}" for kind, number in cost.unmeasured.items()]
    if cost.unmeasured:
        lines.append(f"with what was never measured, guessed by its pixels: {duration(cost.ask_hours * 3600)}")
    share = f"{cost.gpu_hours:.1f} GPU-hours and " * bool(cost.gpu_hours) + f"{cost.cpu_hours:.1f} CPU-hours"
    disk = (
        f"disk: {size(cost.records_bytes)} of records, {size(cost.states_bytes)} of states while trials run, "
        f"{size(cost.weights_bytes)} of networks that others wait for; {size(cost.free_bytes)} free"
    )
    return [*lines, f"that is at most {share}", disk]


def guess(config: TrialConfig, num_ids: int) -> float:
    """Seconds that an epoch is taken to last, by the pixels it shows: a word to ask with, and no measurement."""
    sampler, (height, width) = config.recipe.sampler, config.recipe.image_size
    images = num_ids * (sampler.images if sampler.epoch == "ids_once" else _IMAGES_AN_IDENTITY)
    return _SECONDS * images * height * width / _PIXELS


def _to_come(run: SearchRun, paces: Mapping[str, float], *, cpus: int, gpus: float, num_ids: Mapping[str, int]) -> Work:
    """What a search may still ask for, within its hours, and the final trials of its best."""
    like, search = run.plan.winner_trials({})[0], run.plan.search
    kind, epochs = census.kind((like.source or like).spec, gpus=gpus), run.plan.base.recipe.schedule.epochs
    assumed = guess(run.plan.base, num_ids[run.plan.dataset])
    more = 0 if run.over else run.most - len(run.trials)
    if search.gpu_hours is not None:
        seconds = epochs * paces.get(kind, assumed)
        more = min(more, math.ceil(search.gpu_hours * 3600 / (gpus or cpus) / seconds))
    return Work(kind, more + search.top * len(run.plan.seeds), epochs, assumed)


def _hours(works: list[Work], paces: Mapping[str, float]) -> float:
    return sum(work.units * paces[work.kind] for work in works if work.kind in paces) / 3600


def _networks(agenda: Agenda, num_ids: Mapping[str, int], concurrent: int) -> tuple[int, int]:
    """Bytes of the networks that are kept for others, and of the states of so many trials at a time."""
    todo = agenda.unfinished()
    kept = {trial.source.key: trial.source for trial in todo if trial.source}.values()
    trained = [trial for trial in todo if trial.source is None]
    examples = {_family(trial): trial for trial in (*kept, *trained)}
    sizes = {family: network_bytes(trial.config, _identities(trial, num_ids)) for family, trial in examples.items()}
    weights = sum(sizes[_family(trial)] for trial in kept if not agenda.store.has_weights(trial.key))
    states = sorted(sizes[_family(trial)] * _COPIES[trial.config.recipe.optimiser.name] for trial in trained)
    return weights, sum(states[-concurrent:])


def network_bytes(config: TrialConfig, num_ids: int) -> int:
    """Of a method's weights and statistics, in memory and in a file; nothing is allocated."""
    recipe = replace(config.recipe, weights=None)
    with FakeTensorMode(), torch.random.fork_rng(devices=[]):
        values: dict[str, Any] = build_method(replace(config, recipe=recipe), num_ids=num_ids).state_dict()
    return sum(value.numel() * value.element_size() for value in values.values())


def _family(trial: Trial) -> tuple[str, str | None]:
    """Trials whose networks are about as large: building each would take longer than all the rest of a plan."""
    return trial.config.method, trial.config.recipe.backbone


def _identities(trial: Trial, num_ids: Mapping[str, int]) -> int:
    return num_ids[trial.spec["dataset"]]


def _there(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def refusal(cost: Estimate, limit_hours: float) -> str:
    """Why a sweep does not start without being told to; empty if it does."""
    if cost.ask_hours <= limit_hours:
        return ""
    unknown = counted(sum(cost.unmeasured.values()), "epoch")
    return (
        f"this sweep would take about {duration(cost.ask_hours * 3600)} of one trial after the other "
        f"({cost.gpu_hours:.1f} GPU-hours, {cost.cpu_hours:.1f} CPU-hours; of it {unknown} that were never measured, "
        f"guessed by their pixels), and sweep.ask_above_hours is {limit_hours:g}: start it with --yes, or REID_YES=1 "
        f"for dvc repro; python -m pipeline plan says more"
    )
