"""Planning ten thousand trials, and counting as many in a store: seconds and memory beyond what the imports take.

`python benchmarks/plan.py`. Every experiment on five data sets with enough seeds; then a store that has all of these
trials done, each with 40 epochs on record, at which `status` looks; then the plan again, against that store.
"""

import ctypes
import hashlib
import json
import shutil
import tempfile
import time
from pathlib import Path

import torchvision  # noqa: F401 - which the first network that is built imports

from pipeline.commands import status
from pipeline.planning import experiments
from pipeline.planning.params import Params, load
from pipeline.planning.plan import Plan, expand
from pipeline.planning.shares import Machines, Node
from pipeline.running import costs
from pipeline.running.agenda import Agenda
from pipeline.storage import census
from pipeline.storage.store import TrialStore

ROOT = Path(__file__).parent.parent
DATASETS = ("synthetic", "market1501", "veri776", "inshop", "sop")
EPOCHS = 40


def memory(name: str) -> float:
    """MB; `VmRSS` now, `VmHWM` at most so far."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) / 1024


def planned(params: Params, store: TrialStore) -> tuple[Plan, Agenda]:
    """What the command `plan` does once the data are loaded, timed."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before, started, worked = memory("VmRSS"), time.perf_counter(), time.process_time()
    data = {name: {"val": f"{name} v", "test": f"{name} t"} for name in params.datasets}
    plan = expand(params, experiments.load(params.experiments), data)
    expanded = time.process_time() - worked
    agenda = Agenda(plan, store)
    cost = costs.estimate(
        agenda,
        shares=params.shares(),
        machines=Machines([Node(2, 0)], None),
        num_ids=dict.fromkeys(params.datasets, 751),
    )
    seconds, cpu = time.perf_counter() - started, time.process_time() - worked
    print(
        f"plan of {len(agenda.declared):,} trials, {len(agenda.unfinished()):,} to run: {seconds:.1f} s ({cpu:.1f} s "
        f"of a CPU, {expanded:.1f} of it expanding), {memory('VmHWM') - before:.0f} MB (at most 5 s and 500 MB); "
        f"{cost.ask_hours:,.0f} h"
    )
    return plan, agenda


def fill(plan: Plan, store: TrialStore) -> None:
    """Every trial of a table is done. Written without waiting for the disk, which the store does."""
    result = json.dumps({"status": "done", "epochs": EPOCHS, "cost": {"seconds": 60.0, "cpus": 1, "gpus": 0}})
    line = json.dumps({"epoch": 1, "loss": 1.0, "seconds": 1.5, "lr": 0.01, "triplet/global": 0.1}) + "\n"
    for trial in plan.trials.values():
        folder = store.folder(trial.key)
        folder.mkdir(parents=True)
        (folder / "spec.json").write_text(json.dumps(trial.spec))
        (folder / "metrics.jsonl").write_text(line * EPOCHS)
        (folder / "result.json").write_text(result)
        (folder / "DONE").write_bytes(seals(folder))


def seals(folder: Path) -> bytes:
    """What `sha256sum` prints."""
    names = ("spec.json", "metrics.jsonl", "result.json")
    return "".join(f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names).encode()


def main() -> None:
    params = load(ROOT / "params.yaml").model_copy(
        update={"datasets": DATASETS, "experiments": tuple(experiments.names()), "seeds": tuple(range(16))}
    )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shutil.copy(ROOT / "params.yaml", root)
        store = TrialStore(root / "results" / "trials")
        plan, agenda = planned(params, store)
        fill(plan, store)
        trials = {
            trial.key: {"name": trial.name, "kind": census.kind(trial.spec, gpus=0), "epochs": trial.epochs}
            for trial in agenda.declared.values()
        }
        status.Note(started=time.time(), params=status.fingerprint(root), later=0, trials=trials).write(root)
        for _ in range(3):
            started, worked = time.perf_counter(), time.process_time()
            found = status.read(root)
            seconds, cpu = time.perf_counter() - started, time.process_time() - worked
            print(f"status of {found.declared:,} trials: {seconds:.2f} s ({cpu:.2f} s of a CPU; at most 1 s)")
        assert found.done == len(plan.trials)
        planned(params, store)


if __name__ == "__main__":
    main()
