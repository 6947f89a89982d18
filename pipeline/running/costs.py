"""What is still to be trained costs: hours, from what was measured, and room on the disk."""

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.planning.plan import Trial
from pipeline.planning.search import gpu_hours
from pipeline.planning.shares import Machines, Share, Shares
from pipeline.planning.words import counted, duration, size
from pipeline.running.agenda import Agenda, SearchRun
from pipeline.storage import census
from reid.config import TrialConfig
from reid.train import build_method

# What an epoch counts as where none like it was ever trained: a minute for all of Market-1501 at 384 x 128.
_SECONDS, _IMAGES_AN_IDENTITY = 60.0, 17
_PIXELS = 751 * _IMAGES_AN_IDENTITY * 384 * 128
_RECORD_BYTES, _EPOCH_BYTES = 30_000, 250  # of a trial without networks, and of each of its epochs
_COPIES = {"adam": 3, "sgd": 2}  # of a network in its resumable state: itself and what the optimiser remembers of it


@dataclass(frozen=True)
class Work:
    """So many trials of a kind and share, each of so many epochs; none where a network is scored.

    `guess`: seconds an epoch is taken to last where none like it was ever trained.
    """

    kind: str
    share: Share
    trials: int
    epochs: int
    guess: float

    @property
    def units(self) -> int:
        """What paces are for: epochs, or scorings."""
        return self.trials * (self.epochs or 1)

    def hours(self, paces: Mapping[str, float]) -> float:
        """Of all of them, one after the other; as guessed where the kind has no pace."""
        return self.units * paces.get(self.kind, self.guess) / 3600


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the trials to run take, one after the other; what searches may still ask for is counted at their most.

    `hours`: of the trials that are declared, and `wall_hours`: of these, with `concurrent` at a time of those that need
    least; `search_hours`: of those that searches may add. `unmeasured`: epochs (for scorings: trials) by kind that
    nothing like was ever run of, in none of these. `ask_hours`: of all, the unmeasured as guessed, and so are
    `cpu_hours` and `gpu_hours`. `weights_bytes`: of the networks that others wait for, and of each table's best;
    `states_bytes`: of the trials that run at a time; `records_bytes`: of the rest.
    """

    concurrent: int
    hours: float
    wall_hours: float
    search_hours: float
    unmeasured: dict[str, int]
    ask_hours: float
    cpu_hours: float
    gpu_hours: float
    weights_bytes: int
    states_bytes: int
    records_bytes: int
    free_bytes: int


def estimate(agenda: Agenda, *, shares: Shares, machines: Machines, num_ids: Mapping[str, int]) -> Estimate:
    """What an agenda still costs.

    Args:
        agenda: of the sweep.
        shares: what its trials get.
        machines: that they run on.
        num_ids: training identities by data set.
    """
    paces = census.paces(agenda.store)
    todo = [_work(trial, agenda.share(trial, shares), num_ids) for trial in agenda.unfinished()]
    later = [_to_come(run, paces, shares, num_ids) for run in agenda.searches if not run.final]
    works = [*todo, *later]
    unmeasured: dict[str, int] = {}
    for work in works:
        if work.kind not in paces:
            unmeasured[work.kind] = unmeasured.get(work.kind, 0) + work.units
    measured = [work for work in todo if work.kind in paces]
    concurrent = max((machines.at_once(work.share) for work in works), default=1)
    weights, states = _networks(agenda, num_ids, concurrent)
    return Estimate(
        concurrent=concurrent,
        hours=sum(work.hours(paces) for work in measured),
        wall_hours=sum(work.hours(paces) / machines.at_once(work.share) for work in measured),
        search_hours=sum(work.hours(paces) for work in later if work.kind in paces),
        unmeasured=unmeasured,
        ask_hours=sum(work.hours(paces) for work in works),
        cpu_hours=sum(work.hours(paces) * work.share.all_cpus for work in works),
        gpu_hours=sum(work.hours(paces) * work.share.all_gpus for work in works),
        weights_bytes=weights,
        states_bytes=states,
        records_bytes=sum(work.trials * (_RECORD_BYTES + work.epochs * _EPOCH_BYTES) for work in works),
        free_bytes=shutil.disk_usage(_there(agenda.store.root)).free,
    )


def describe(cost: Estimate) -> list[str]:
    """The estimate as lines for people."""
    side = f", {duration(cost.wall_hours * 3600)} with up to {cost.concurrent} at a time"
    wall = side if cost.concurrent > 1 else ""
    searches = f"; searches at most {duration(cost.search_hours * 3600)} more" if cost.search_hours else ""
    measured = f"time: {duration(cost.hours * 3600)} of one trial after the other{wall}{searches}, as measured here"
    lines = [measured] if cost.hours or cost.search_hours else []
    lines += [f"time unknown, never measured here: {number:,} x {kind}" for kind, number in cost.unmeasured.items()]
    if cost.unmeasured:
        lines.append(f"with what was never measured, guessed by its pixels: {duration(cost.ask_hours * 3600)}")
    share = f"{cost.gpu_hours:.1f} GPU-hours and " * bool(cost.gpu_hours) + f"{cost.cpu_hours:.1f} CPU-hours"
    disk = (
        f"disk: {size(cost.records_bytes)} of records, {size(cost.states_bytes)} of states while trials run, "
        f"{size(cost.weights_bytes)} of networks that are kept; {size(cost.free_bytes)} free"
    )
    return [*lines, f"that is at most {share}", disk]


def guess(config: TrialConfig, num_ids: int) -> float:
    """Seconds that an epoch is taken to last, by the pixels it shows: a word to ask with, and no measurement."""
    sampler, (height, width) = config.recipe.sampler, config.recipe.image_size
    images = num_ids * (sampler.images if sampler.epoch == "ids_once" else _IMAGES_AN_IDENTITY)
    return _SECONDS * images * height * width / _PIXELS


def _work(trial: Trial, share: Share, num_ids: Mapping[str, int]) -> Work:
    kind = census.kind(trial.spec, gpus=share.all_gpus)
    return Work(kind, share, 1, trial.epochs, guess(trial.config, _identities(trial, num_ids)))


def _to_come(run: SearchRun, paces: Mapping[str, float], shares: Shares, num_ids: Mapping[str, int]) -> Work:
    """What a search may still ask for, within its hours, and the final trials of its best."""
    like, search = run.plan.winner_trials({})[0], run.plan.search
    one = _work(like.source or like, shares.of([run.plan.experiment]), num_ids)
    more = 0 if run.over else run.most - len(run.trials)
    if search.gpu_hours is not None:
        each = gpu_hours(seconds=one.hours(paces) * 3600, gpus=one.share.all_gpus, cpus=one.share.all_cpus)
        more = min(more, math.ceil(search.gpu_hours / each))
    return replace(one, trials=more + search.top * len(run.plan.seeds))


def _networks(agenda: Agenda, num_ids: Mapping[str, int], concurrent: int) -> tuple[int, int]:
    """Bytes of the networks that are kept, and of the states of so many trials at a time."""
    todo = agenda.unfinished()
    kept = {trial.source.key: trial.source for trial in todo if trial.source}.values()
    trained = [trial for trial in todo if trial.source is None]
    examples = {_family(trial): trial for trial in (*kept, *trained)}
    sizes = {family: network_bytes(trial.config, _identities(trial, num_ids)) for family, trial in examples.items()}
    weights = sum(sizes[_family(trial)] for trial in kept if not agenda.store.has_weights(trial.key))
    weights += sum(max(sizes[_family(trial)] for trial in trials) for trials in _undecided(agenda, todo))
    states = sorted(sizes[_family(trial)] * _COPIES[trial.config.recipe.optimiser.name] for trial in trained)
    return weights, sum(states[-concurrent:])


def _undecided(agenda: Agenda, todo: Sequence[Trial]) -> Iterator[list[Trial]]:
    """Of each table that keeps no network yet, the trials whose network it may keep."""
    there, open_ = agenda.networks.kept(agenda.store), {trial.key for trial in todo}
    for trials in agenda.networks.trials.values():
        able = [trial for trial in trials if trial.key in open_]
        if able and there.isdisjoint(trial.key for trial in trials):
            yield able


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
