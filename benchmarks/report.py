"""A report of 1,000 stored trials of 120 epochs: how long it takes, how large the page is, what it asks of a browser.

`python benchmarks/report.py [--trials N] [--epochs N] [--keep FOLDER] [--profile]`. The trials are made up and written
to a store as a sweep writes them: every table and figure of the papers on one data set of the size of Market-1501, over
as many seeds as it takes. Limits: 20 s for the report, 15 MB for the page, no request, and nothing on the
console at 390 and 1440 pixels.
"""

import argparse
import cProfile
import hashlib
import json
import os
import pstats
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import report
from pipeline.exports import export
from pipeline.exports.curves import Curves
from pipeline.planning import experiments
from pipeline.planning.params import Params, load
from pipeline.planning.plan import Plan, Trial, expand
from pipeline.running.agenda import Agenda
from pipeline.storage.store import TrialStore
from reid.data import manifest
from reid.data.dataset import ReidData
from reid.data.split import make_split

ROOT = Path(__file__).parent.parent
DATASET, QUERIES = "market1501", 3368
LIMIT_SECONDS, LIMIT_BYTES = 20.0, 15e6


def made_up(folder: Path) -> dict[str, dict[str, str]]:
    """A data set with as many queries as Market-1501, of images of two pixels; its digests."""
    counts = {"train": 12936, "query": QUERIES, "gallery": 15913}
    rng = np.random.default_rng(0)
    parts = np.repeat([*counts], [*counts.values()])
    table = pd.DataFrame({"path": [f"{place:06d}.jpg" for place in range(len(parts))], "box": "", "identity": 0})
    table = table.assign(camera=1 + np.arange(len(parts)) % 6, split=parts, sha256="0" * 64)
    table["identity"] = np.where(table["split"] == "train", 0, 751) + rng.integers(1, 751, len(table))
    folder.mkdir(parents=True)
    manifest.write(table, folder / "manifest.parquet")
    np.save(folder / "images.npy", np.zeros((len(table), 2, 1, 3), np.uint8))
    shape = (len(table), 2, 1, 3)
    digest = manifest.digest(manifest.read(folder / "manifest.parquet"), shape, fit="stretch")
    (folder / "info.json").write_text(json.dumps({"fit": "stretch", "digest": digest}))
    make_split(table, val_fraction=0.2, seed=0).save(folder / "split.json")
    data = ReidData.load(folder)
    return {DATASET: {"val": data.digest_for("val"), "test": data.digest_for("test")}}


def wanted(trials: int, data: dict[str, dict[str, str]]) -> tuple[Params, Plan]:
    """Tables and figures of all papers, pictures aside, over so many seeds that there are at least so many trials."""
    known = experiments.load(tuple(experiments.names()))
    names = [item.name for item in known if not (item.search or item.transfer or item.pictures)]
    params = load(ROOT / "params.yaml")
    for seeds in range(1, 100):
        params = params.model_copy(
            update={"datasets": (DATASET,), "experiments": tuple(names), "seeds": tuple(range(seeds))}
        )
        plan = expand(params, experiments.load(params.experiments), data)
        if len(plan.trials) >= trials:
            break
    return params, plan


class Endless:
    """Room for every trial."""

    def fits(self, trial: Trial) -> bool:
        """Always."""
        return True

    def size(self, trial: Trial) -> tuple[float, ...]:
        """Of no matter."""
        return ()


def fill(agenda: Agenda, epochs: int) -> None:
    """Every trial is done, as the store would have it; without waiting for the disk, which the store does."""
    rng = np.random.default_rng(0)
    fall = np.exp(-np.arange(epochs) / 30)
    ease = rng.beta(2, 2, QUERIES)
    while trial := agenda.next(Endless()):
        folder = agenda.store.folder(trial.key)
        folder.mkdir(parents=True)
        values = np.clip(ease + rng.normal(0, 0.2, QUERIES), 0, 1)
        ranks = np.ceil(1 + 20 * (1 - values) ** 4)
        arrays = {"average_precision": values, "first_match_rank": ranks, "inverse_negative_penalty": values / 2}
        np.savez(folder / "per_query.npz", **arrays)
        (folder / "spec.json").write_text(json.dumps(trial.spec))
        losses = 5 * fall + rng.gamma(2, 0.1, epochs)
        (folder / "metrics.jsonl").write_bytes(b"".join(map(line, range(1, epochs + 1), losses)))
        (folder / "result.json").write_text(json.dumps(result(values, ranks, epochs)))
        names = ("spec.json", "metrics.jsonl", "per_query.npz", "result.json")
        seals = (f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
        (folder / "DONE").write_text("".join(seals))
        agenda.ended(trial.key)
    assert agenda.complete()
    assert not agenda.failed


def line(epoch: int, loss: float) -> bytes:
    """An epoch as the store has it, with its checksum."""
    record = {"epoch": float(epoch), "time": 1.7e9 + epoch, "loss": loss, "lr": 0.01, "seconds": 1.5}
    body = json.dumps(record | {f"loss/part{part}": loss / 4 for part in range(4)} | {"probe/id/all": loss}).encode()[
        :-1
    ]
    return body + b', "crc": "%08x"}\n' % zlib.crc32(body)


def result(values: Any, ranks: Any, epochs: int) -> dict[str, Any]:
    shares = {f"Rank-{rank}": float(np.mean(ranks <= rank)) for rank in (1, 5, 10)}
    environment = {"python": "3.11", "torch": "2", "reid": "0", "host": "here", "commit": "c" * 40, "dirty": False}
    return {
        "status": "done",
        "metrics": {
            "mAP": float(values.mean()),
            "mINP": float((values / 2).mean()),
            **shares,
            "num_valid": QUERIES,
            "num_skipped": 0,
        },
        "epochs": epochs,
        "cost": {"seconds": 60.0, "device": "cpu", "cpus": 1, "gpus": 0},
        "environment": environment,
        "started": "2026-01-01T00:00:00+00:00",
        "finished": "2026-01-01T01:00:00+00:00",
    }


def asked(page: Path, width: int) -> tuple[set[str], list[str]]:
    """The hosts that chromium asks when it opens a page, and what stands on its console."""
    with tempfile.TemporaryDirectory() as folder:
        net = Path(folder) / "net.json"
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--window-size={width},900"]
        flags += [f"--user-data-dir={folder}/profile", f"--log-net-log={net}", "--enable-logging=stderr", "--dump-dom"]
        command = ["chromium", *flags, page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
        console = [text for text in done.stderr.splitlines() if ":CONSOLE" in text]
        hosts = set(re.findall(r'"url":"(?:https?|wss?|ftp)://([^/"]*)', net.read_text()))
    return hosts, console


class _NoRuns:
    """MLflow knows nothing of these trials."""

    experiment_id = ""

    def run_ids(self) -> dict[str, str]:
        return {}


def main(trials: int, epochs: int, keep: Path | None, *, profiled: bool) -> None:
    root = keep or Path(tempfile.mkdtemp(prefix="report-"))
    data = made_up(root / "data" / DATASET)
    params, plan = wanted(trials, data)
    agenda = Agenda(plan, TrialStore(root / "trials"))
    started = time.perf_counter()
    fill(agenda, epochs)
    print(f"{len(agenda.declared):,} trials of {epochs} epochs made up in {time.perf_counter() - started:.0f} s")
    (root / "results").mkdir()
    started = time.perf_counter()
    export.write(root, params, plan, agenda, _NoRuns())
    print(f"exported in {time.perf_counter() - started:.1f} s")
    for path in sorted((root / "results").iterdir()):
        print(f"  {path.name}: {path.stat().st_size / 1e6:.1f} MB")
    started = time.perf_counter()
    Curves.load(root / "results" / "curves.parquet")
    print(f"curves.parquet is read in {time.perf_counter() - started:.2f} s")
    shutil.copytree(ROOT / "reports" / "published", root / "reports" / "published")
    if profiled:
        with cProfile.Profile() as profile:
            report.run(root)
        pstats.Stats(profile).sort_stats("cumtime").print_stats(40)
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "pipeline", "report"], cwd=root, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True
    )
    page = root / "reports" / "generated" / "index.html"
    seconds = time.perf_counter() - started
    print(
        f"report of {len(plan.experiments)} tables: {seconds:.1f} s (at most {LIMIT_SECONDS:.0f}); "
        f"page {page.stat().st_size / 1e6:.1f} MB (at most {LIMIT_BYTES / 1e6:.0f})"
    )
    if shutil.which("chromium"):
        (root / "empty.html").write_text("<!doctype html><title>Empty</title>")
        of_its_own, _ = asked(root / "empty.html", 1440)
        for width in (390, 1440):
            hosts, console = asked(page, width)
            asks = sorted(hosts - of_its_own)
            print(f"chromium at {width} pixels: {len(asks)} requests {asks}, {len(console)} lines on its console")
            print(*console, sep="\n", end="")
    if keep is None:
        shutil.rmtree(root)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--keep", type=Path, help="an empty folder to work in; it stays")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    main(options.trials, options.epochs, options.keep, profiled=options.profile)
