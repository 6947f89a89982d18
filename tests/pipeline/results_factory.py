"""What a sweep leaves, made by hand: a table of trials and a plan as the report stage reads them.

`make_results` writes the three experiments of the demo: two tables and a search, with a failed, a missing and a pruned
trial, one seed less in places, over any number of data sets.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.exports import curves, queries
from pipeline.exports.export import MEASURED
from pipeline.exports.queries import Scores
from pipeline.planning import experiments
from pipeline.planning.experiments import Row
from reid.config import Augment, Protocol, Recipe, Sampler, Schedule, to_dict

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "reports" / "published"
UI = "http://127.0.0.1:5000"
SEEDS = (0, 1, 2)
METRICS = ("mAP", "mINP", "Rank-1", "Rank-5", "Rank-10")
MODEL = {"global_branch": True, "drop_branch": True, "triplet": True, "rh": 0.3, "rw": 1.0, "label_smoothing": 0.1}

TABLE1 = {  # label and name in the paper's table: changes of the model, cutout, rough mAP
    "Baseline": ({"drop_branch": False, "triplet": False}, 0.0, 0.21),
    "Baseline+Triplet": ({"drop_branch": False}, 0.0, 0.30),
    "BDB": ({}, 0.0, 0.36),
    "BDB+Cut": ({}, 0.5, 0.39),
}
TABLE2 = {
    "Global Branch (Baseline)": ({"drop_branch": False}, 0.0, 0.30),
    "Feature Dropping Branch": ({"global_branch": False}, 0.0, 0.32),
    "Both Branches (BDB)": ({}, 0.0, 0.36),
    "Feature Dropping Branch + Cut": ({"global_branch": False}, 0.5, 0.27),
    "BDB + Cut": ({}, 0.5, 0.39),
}
OTHERS = (
    "IDE",
    "PAN",
    "SVDNet",
    "DPFL",
    "HA-CNN",
    "SVDNet+Era",
    "TriNet+Era",
    "DaRe",
    "GP-reid",
    "PCB",
    "PCB + RPP",
    "MGN",
)


def digest(*parts: object, length: int = 20) -> str:
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:length]


def recipe(**changes: Any) -> Recipe:
    """The demo's training size."""
    return Recipe(
        **{"backbone": "resnet18", "weights": None, "image_size": (128, 64), "schedule": Schedule(epochs=12)} | changes
    )


def trial(
    *,
    dataset: str = "synthetic",
    seed: int = 0,
    mean_ap: float = 0.3,
    model: Mapping[str, Any] | None = None,
    cutout: float = 0.0,
    recipe_changes: Mapping[str, Any] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """One line of trials.parquet: a finished trial of BDB, with `changes` to any column."""
    config = {
        "method": "bdb",
        "model": MODEL | dict(model or {}),
        "recipe": to_dict(recipe(augment=Augment(cutout=cutout), **dict(recipe_changes or {}))),
        "evaluate_on": "test",
        "seed": seed,
    }
    setting = digest({**config, "seed": None}, dataset)
    key = digest(config, dataset)
    row = {
        "key": key,
        "source": "",
        "setting": setting,
        "name": f"bdb-{dataset}-s{seed}-{key[:8]}",
        "dataset": dataset,
        "method": "bdb",
        "seed": seed,
        "evaluate_on": "test",
        "status": "done",
        "reason": "",
        "mAP": mean_ap,
        "mINP": mean_ap * 0.6,
        "Rank-1": min(mean_ap * 1.5, 1.0),
        "Rank-5": min(mean_ap * 1.9, 1.0),
        "Rank-10": min(mean_ap * 2.1, 1.0),
        "num_valid": 240,
        "num_skipped": 0,
        "protocol": json.dumps(to_dict(Protocol().resolved()), sort_keys=True),
        "data_digest": digest("data", dataset, length=64),
        "code_digest": digest("code", "bdb", length=64),
        "config": json.dumps(config, sort_keys=True),
        "epochs": 12,
        "seconds": 95.0 + seed,
        **dict.fromkeys(MEASURED, float("nan")),
        "cpus": 1,
        "gpus": 0.0,
        "device": "cpu",
        "commit": digest("commit", length=40),
        "dirty": False,
        "python": "3.11.7",
        "torch": "2.15.0",
        "started": f"2026-03-01T1{seed}:00:00+00:00",
        "finished": f"2026-03-01T1{seed}:02:00+00:00",
        "run_id": digest("run", key, length=32),
        "experiment_id": "1",
    }
    return row | changes


def unfinished(row: dict[str, Any], status: str, reason: str = "") -> dict[str, Any]:
    """The same trial without a result, as the sweep exports it."""
    nothing: dict[str, Any] = dict.fromkeys([*METRICS, "num_valid", "num_skipped", "seconds", *MEASURED], float("nan"))
    texts = dict.fromkeys(["device", "commit", "python", "torch", "started", "finished", "run_id", "experiment_id"], "")
    counts = dict.fromkeys(["epochs", "cpus", "gpus"], 0)
    return row | nothing | texts | counts | {"status": status, "reason": reason, "dirty": False}


def plan_row(
    label: str,
    keys: dict[str, list[str]],
    *,
    method: str | None = "bdb",
    published: str | None = "",
    embedding: str = "",
    series: str = "",
) -> Any:
    """A row of plan.json; `published` is the label unless it is given."""
    name = label if published == "" else published
    return {
        "label": label,
        "method": method,
        "variant": "default",
        "overrides": {},
        "published_method": name,
        "embedding": embedding,
        "series": series,
        "winner": 0,
        "settings": {},
        "keys": keys,
    }


def experiment(name: str, rows: list[Any], **changes: Any) -> dict[str, Any]:
    """An experiment of plan.json, a table without published numbers unless `changes` say otherwise."""
    return {
        "name": name,
        "kind": "table",
        "title": name,
        "note": "",
        "reference": next((row["label"] for row in rows if row["method"] is not None), ""),
        "metrics": ["Rank-1", "mAP"],
        "published": None,
        "published_datasets": [],
        "rows": rows,
        "search": None,
        "figure": None,
        "counts": None,
    } | changes


def plan(experiments: list[Any], datasets: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A whole plan.json."""
    return {
        "profile": "demo",
        "store": "results/trials",
        "datasets": dict(datasets or {"synthetic": "Embedded set"}),
        "transfers": {},
        "seeds": list(SEEDS),
        "mlflow_ui": UI,
        "experiments": experiments,
    }


QUERIES = 240
IDENTITIES = np.sort(np.random.default_rng(0).integers(1, 61, QUERIES))  # whose image each query is


def per_query(row: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the queries that fit a trial's metrics as nearly as so many queries can."""
    generator = np.random.default_rng(list(row["key"].encode()))
    ease = np.random.default_rng(1).beta(2, 2, 61)[IDENTITIES]
    ease = np.clip(ease + generator.normal(0, 0.08, QUERIES), 0.01, 0.99)
    low, high = -12.0, 12.0
    for _ in range(80):  # the power that gives this mean
        power = (low + high) / 2
        low, high = (power, high) if np.mean(ease ** np.exp(power)) > row["mAP"] else (low, power)
    found = np.full(QUERIES, 20.0)
    order = np.argsort(-ease + generator.normal(0, 0.05, QUERIES))
    for rank, name in ((8.0, "Rank-10"), (3.0, "Rank-5"), (1.0, "Rank-1")):
        found[order[: round(QUERIES * row[name])]] = rank
    precision = ease ** np.exp(power)
    return {
        "average_precision": precision,
        "first_match_rank": found,
        "inverse_negative_penalty": precision**2,
    }


def consistent(row: dict[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The trial with the metrics that its queries' values have."""
    first = arrays["first_match_rank"]
    shares = {f"Rank-{rank}": float(np.mean(first <= rank)) for rank in (1, 5, 10)}
    precision, penalty = arrays["average_precision"], arrays["inverse_negative_penalty"]
    means = {"mAP": float(np.mean(precision)), "mINP": float(np.mean(penalty))}
    return row | shares | means | {"num_valid": QUERIES}


def measured(row: Mapping[str, Any]) -> bool:
    """Whether a trial is a final one with a number."""
    return bool(row["status"] == "done" and row["evaluate_on"] == "test" and row["mAP"] == row["mAP"])


def scores(rows: list[dict[str, Any]]) -> Scores:
    """What the report reads of the queries of these trials."""
    found = {row["key"]: per_query(row) for row in rows if measured(row)}
    return Scores(
        arrays={name: {(key, ""): arrays[name] for key, arrays in found.items()} for name in queries.ARRAYS},
        identities={(row["dataset"], row["data_digest"]): IDENTITIES for row in rows},
    )


def write(root: Path, rows: list[dict[str, Any]], content: dict[str, Any]) -> Path:
    """Lay trials, their epochs and the plan down as the sweep does, with the published tables beside them."""
    (root / "results" / "pictures").mkdir(parents=True)
    (root / "results" / "pictures" / "index.json").write_text("[]")
    unique = {row["key"]: row for row in rows}
    records = {key: losses(unique[key]) for key in sorted(unique) if unique[key]["epochs"]}
    pq.write_table(curves.table(records), root / "results" / curves.FILE)
    arrays = {key: per_query(row) for key, row in unique.items() if measured(row)}
    lines = [consistent(row, arrays[key]) if key in arrays else row for key, row in unique.items()]
    pd.DataFrame(lines).to_parquet(root / "results" / "trials.parquet", index=False)
    queries.write_scores(root / "results" / queries.PER_QUERY, arrays.items())
    whose = {(row["dataset"], row["data_digest"]) for row in lines}
    table = [{"dataset": name, "data_digest": digest, "identities": IDENTITIES} for name, digest in sorted(whose)]
    pq.write_table(pa.Table.from_pylist(table), root / "results" / queries.QUERIES)
    (root / "results" / "plan.json").write_text(json.dumps(content), encoding="utf-8")
    shutil.copy(ROOT / "params.yaml", root)
    shutil.copytree(PUBLISHED, root / "reports" / "published")
    return root


def losses(row: Mapping[str, Any]) -> list[dict[str, float]]:
    """The epochs of a trial: a loss that falls, to a level and with a noise of its own; the loss on erased images; the
    validation metric of a search's trial, which rises to its value.
    """
    rng = np.random.default_rng(int(row["key"][:8], 16))
    noise = rng.normal(0, 0.04, (2, row["epochs"]))
    return [
        {
            "epoch": float(epoch),
            "lr": 0.01,
            "loss": 6.0 * math.exp(-4 * epoch / row["epochs"]) + row["mAP"] + abs(noise[0, epoch - 1]),
            "probe/id/erasing": 4.0 - 3.0 * epoch / row["epochs"] + noise[1, epoch - 1],
            **({"val/mAP": row["mAP"] * (epoch / row["epochs"]) ** 0.3} if row["evaluate_on"] == "val" else {}),
        }
        for epoch in range(1, row["epochs"] + 1)
    ]


def figures(seeds: int = 3, dataset: str = "synthetic") -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and experiments of BDB's Figure 7, and ES-Net's Figures 3, 4 and 6, as their files declare them."""
    rows: list[dict[str, Any]] = []
    found = []
    for declared in experiments.load(("bdb_fig7a", "bdb_fig7b", "esnet_fig3", "esnet_fig4", "esnet_fig6")):
        entries = []
        for place, row in enumerate(declared.rows):
            lines = [_swept(declared.name, row, seed, place, dataset) for seed in range(seeds)]
            rows += lines
            keys = {dataset: [line["key"] for line in lines]}
            entries.append(plan_row(row.label, keys, published=None, series=row.series))
        figure = declared.figure.model_dump(mode="json") if declared.figure else None
        found.append(experiment(declared.name, entries, title=declared.title, note=declared.note, figure=figure))
    return rows, found


def _swept(name: str, row: Row, seed: int, place: int, dataset: str) -> dict[str, Any]:
    """A trial of a row, with what its overrides say; the best lies between the ends."""
    model: dict[str, Any] = {"figure": name, "row": row.label, "erase_ratio": 0.2 if "20%" in row.label else 0.1}
    model |= {path[6:]: value for path, value in row.overrides.items() if path.startswith("model.")}
    sampler = {path[15:]: value for path, value in row.overrides.items() if path.startswith("recipe.sampler.")}
    noise = np.random.default_rng([seed, place, *name.encode()]).normal(0, 0.006)
    level = 0.62 - 0.02 * (place % 5 - 2) ** 2 + 0.04 * (place // 5) + noise
    changes = {"sampler": Sampler(**sampler)} if sampler else {}
    return trial(dataset=dataset, seed=seed, mean_ap=level, model=model, recipe_changes=changes, epochs=60)


def make_results(root: Path, datasets: Mapping[str, str] | None = None) -> Path:
    """The demo: bdb_table1, bdb_table2 and bdb_block_height."""
    names = dict(datasets or {"synthetic": "Embedded set"})
    rows: dict[str, dict[str, Any]] = {}
    table1 = [_measured(label, *spec, names, rows) for label, spec in TABLE1.items()]
    table2 = [_measured(label, *spec, names, rows) for label, spec in TABLE2.items()]
    for place, (status, reason) in zip((1, 11), (("failed", "CUDA out of memory"), ("missing", "")), strict=True):
        key = list(rows)[place]
        rows[key] = unfinished(rows[key], status, reason)
    others = [plan_row(label, {}, method=None) for label in OTHERS]
    experiments = [
        experiment(
            "bdb_table1",
            others + table1,
            title="Comparison with existing person re-ID methods",
            note="The published rows train a ResNet-50 on 384 x 128 images.",
            published="bdb_table1",
            published_datasets=["Market-1501", "CUHK03-NP: detected"],
        ),
        experiment(
            "bdb_table2",
            table2,
            title="Effect of the global branch and the feature dropping branch",
            published="bdb_table2",
            published_datasets=["Market-1501"],
        ),
        _search(names, rows),
    ]
    return write(root, list(rows.values()), plan(experiments, names))


def _measured(
    label: str, model: Mapping[str, Any], cutout: float, level: float, names: Mapping[str, str], rows: dict[str, Any]
) -> Any:
    keys: dict[str, list[str]] = {}
    for place, dataset in enumerate(names):
        noise = np.random.default_rng([place, *label.encode()]).normal(0, 0.008, len(SEEDS))
        lines = [
            trial(dataset=dataset, seed=seed, mean_ap=level + 0.1 * place + noise[seed], model=model, cutout=cutout)
            for seed in SEEDS
        ]
        for line in lines:
            rows.setdefault(line["key"], line)
        keys[dataset] = [line["key"] for line in lines]
    return plan_row(label, keys)


def _search(names: Mapping[str, str], rows: dict[str, Any]) -> dict[str, Any]:
    searches = {dataset: _search_on(dataset, rows) for dataset in names}
    found = _measured("Height found by the search", {"rh": 0.4}, 0.0, 0.37, names, rows)
    default = _measured("Height 0.3 (paper)", {}, 0.0, 0.36, names, rows)
    return experiment(
        "bdb_block_height",
        [default | {"published_method": None}, found | {"published_method": None, "winner": 1}],
        kind="search",
        title="Height of the dropped block, chosen on held-out identities",
        note="Figure 7 of the paper draws Rank-1 over the height; its text names 0.3 as the best.",
        search=searches,
    )


def _search_on(dataset: str, rows: dict[str, Any]) -> dict[str, Any]:
    trials = []
    for number, height in enumerate((0.3, 0.55, 0.15, 0.7, 0.4, 0.25, 0.35, 0.45)):
        value = 0.45 - 0.9 * (height - 0.4) ** 2
        line = trial(dataset=dataset, mean_ap=value, model={"rh": height}, evaluate_on="val", code_digest="a" * 64)
        line["key"] = digest(line["key"], "val")
        line["status"] = "pruned" if number in (2, 3) else "done"
        failed = number == 7
        rows[line["key"]] = unfinished(line, "failed", "the loss is not finite") if failed else line
        trials.append(
            {
                "number": number,
                "params": {"model.rh": height},
                "values": [] if failed else [value],
                "status": "missing" if failed else line["status"],
                "key": line["key"],
            }
        )
    space = {"model.rh": {"low": 0.1, "high": 0.7, "step": 0.05}}
    return search_entry(space, trials, winners=[{"number": 4, "params": {"model.rh": 0.4}}])


def search_entry(space: dict[str, Any], trials: list[Any], **changes: Any) -> dict[str, Any]:
    """One search of plan.json, over and without a winner unless `changes` say otherwise."""
    return {"objectives": ["mAP"], "space": space, "trials": trials, "winners": [], "over": True} | changes


def wide_search(name: str = "wide", *, trials: int = 24) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows and experiment of a search with four settings, one of them conditional, and two objectives.

    The third one matters: the value falls with the distance of `model.alpha` from 0.8.
    """
    space = {
        "recipe.schedule.peak_lr": {"low": 1e-4, "high": 1e-1, "log": True},
        "model.drop_rule": {"choices": ["max_frac", "top_frac"]},
        "model.alpha": {"low": 0.5, "high": 0.95, "step": 0.05, "when": {"model.drop_rule": "max_frac"}},
        "model.attention": {"choices": [True, False]},
    }
    draws = np.random.default_rng(0)
    rows, tried = [], []
    for number in range(trials):
        params: dict[str, Any] = {"recipe.schedule.peak_lr": float(10 ** draws.uniform(-4, -1))}
        params["model.drop_rule"] = "top_frac" if number % 4 == 3 else "max_frac"
        if params["model.drop_rule"] == "max_frac":
            params["model.alpha"] = round(0.5 + 0.05 * int(draws.integers(10)), 2)
        params["model.attention"] = bool(draws.integers(2))
        value = 0.6 - 1.2 * abs(params.get("model.alpha", 0.55) - 0.8) + draws.normal(0, 0.02)
        row = trial(mean_ap=value, model={"name": f"{name} {number}"}, evaluate_on="val")
        row["status"] = "pruned" if number % 6 == 5 else "done"
        rows.append(row)
        seconds = 3.0 + 2 * value + draws.normal(0, 0.4)
        tried.append(
            {"number": number, "params": params, "values": [value, seconds], "status": row["status"], "key": row["key"]}
        )
    done = sorted((one for one in tried if one["status"] == "done"), key=lambda one: -one["values"][0])
    winners = [{"number": one["number"], "params": one["params"]} for one in done[:2]]
    entry = search_entry(space, tried, winners=winners, objectives=["mAP", "step_seconds"])
    listed = [plan_row(label, {"synthetic": []}, published=None) for label in ("Best", "Second best")]
    return rows, experiment(name, listed, kind="search", search={"synthetic": entry})
