"""MLflow brought up to the trial store: all that a sweep could not tell it, and the end of what died with a process."""

import dataclasses
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import filelock
import pandas as pd
from rich.console import Console
from rich.progress import track

from pipeline.mlflow_view import addresses, tracking, view
from pipeline.mlflow_view.tracking import Mirror
from pipeline.planning.params import Params, load
from pipeline.planning.strict import redact
from pipeline.storage import locks
from pipeline.storage.remote import store_at
from pipeline.storage.store import TrialStore

UNFINISHED, LOCKED = 2, 4


@dataclass(kw_only=True)
class Outcome:
    """What became of the trials of a store; `trials` is the sum of the next four.

    `written`: MLflow lacked something of them; `training`: a sweep is at them; `left_out`: why they cannot be shown, by
    key. `points`: of metrics that were written; `tidied`: parent runs of dead sweeps, and second runs of one trial.
    """

    trials: int = 0
    written: int = 0
    up_to_date: int = 0
    training: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    points: int = 0
    tidied: int = 0


def run(root: Path, *, as_json: bool) -> int:
    """Reconcile for the params.yaml in `root`, and say what that took.

    Returns:
        0: MLflow has all that the store has. 2: it has not, and what could be written was. 4: a sweep, or another call
        of this, writes to MLflow now; nothing was done.
    """
    params = load(root / "params.yaml")
    uri = redact(addresses.store_uri(params.tracking.uri, root))
    try:
        outcome = reconcile(root, params)
    except filelock.Timeout:
        print(f"{tracking.BUSY}: a sweep, which says it all itself, or another reconcile; wait for it", file=sys.stderr)
        return LOCKED
    except Exception as error:  # whatever MLflow, its database or the network raise: there is one remedy
        problem = tracking.reason(f"{type(error).__name__}: {error}")
        print(
            f"MLflow at {uri} failed: {problem}. Once it answers, the same command goes on from here", file=sys.stderr
        )
        return UNFINISHED
    print(json.dumps(dataclasses.asdict(outcome)) if as_json else f"MLflow at {uri}: {describe(outcome)}")
    for key, problem in outcome.left_out.items():
        print(f"left out: trial {key}: {problem}", file=sys.stderr)
    return UNFINISHED if outcome.left_out else 0


def reconcile(root: Path, params: Params) -> Outcome:
    """Make the runs of the experiment equal to the trials of the store.

    Raises:
        filelock.Timeout: another process writes this store to MLflow.
        Exception: MLflow's, where it fails.
    """
    store, outcome = store_at(params.sweep.store, root, cache=params.sweep.cache), Outcome()
    with tracking.writing(store).acquire(timeout=0):
        sweeping = bool(locks.holder_of(store))  # so that a trial without an end on record is not over
        store.refresh()
        mirror = Mirror(addresses.store_uri(params.tracking.uri, root), params.tracking.experiment, root, store)
        mirror.adopt(params.profile)
        outcome.tidied = 0 if sweeping else mirror.tidy()
        names = {key: run.name for key, run in mirror.runs.items()}
        names |= _names(root / "results" / "trials.parquet")
        keys = track(store.keys(), "MLflow", console=Console(stderr=True), disable=not sys.stderr.isatty())
        for key in keys:
            outcome.trials += 1
            if sweeping and store.state(key) == "running":
                outcome.training += 1
            else:
                _bring_up(key, names, store, mirror, outcome)
        outcome.points = mirror.num_points
    return outcome


def describe(outcome: Outcome) -> str:
    """The outcome as a sentence whose numbers add up."""
    return (
        f"{outcome.trials} trials in the store = {outcome.written} written ({outcome.points} points of metrics) + "
        f"{outcome.up_to_date} up to date + {outcome.training} training now + {len(outcome.left_out)} left out; "
        f"{outcome.tidied} runs that nobody writes to any more closed or deleted"
    )


def _bring_up(key: str, names: Mapping[str, str], store: TrialStore, mirror: Mirror, outcome: Outcome) -> None:
    try:
        spec = store.spec(key)
        trial = view.Recorded(key=key, name=names[key] if key in names else view.plain_name(key, spec), spec=spec)
        wrote = mirror.sync(trial)
    except (ValueError, LookupError) as error:  # a damaged record, which names itself
        outcome.left_out[key] = tracking.reason(error)
        return
    outcome.written += wrote
    outcome.up_to_date += not wrote


def _names(exported: Path) -> dict[str, str]:
    """The names of the trials of the last sweep, by key."""
    if not exported.exists():
        return {}
    table = pd.read_parquet(exported, columns=["key", "name"])
    return dict(zip(table["key"], table["name"], strict=True))
