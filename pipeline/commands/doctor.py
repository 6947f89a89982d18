"""What is wrong and what mends it, from what `checkup` and `pipeline.running.machine` find; for people or as JSON."""

import gc
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from pipeline.commands.checkup import DATA_SECONDS, Checkup, DataSet, Lock, Raw, Survey
from pipeline.planning import experiments
from pipeline.planning.params import ParamsError, Prepare, load
from pipeline.planning.places import Place
from pipeline.planning.shares import Node, Shares, slots
from pipeline.running.machine import Disk, Environment
from reid.data.manifest import SPLITS

LOW, TOO_LOW = 10 * 10**9, 10**9  # bytes free: worth a warning (Market-1501 packs to 5 GB); not enough for anything

_WIDTH = 150  # of what is printed where no terminal says


@dataclass(frozen=True)
class Finding:
    """Something wrong and what mends it; `stops`: `make repro` fails until then."""

    problem: str
    fix: str
    stops: bool = True


def run(root: Path, *, as_json: bool) -> int:
    """Look at the checkout at `root` and print what was found; 1 if something stops `make repro` there, else 0."""
    checkup, findings = examine(root)
    if as_json:
        print(json.dumps(_tree(checkup, findings), default=str))
    else:
        console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False)
        show(checkup, findings, console)
    return 1 if any(finding.stops for finding in findings) else 0


def examine(root: Path) -> tuple[Checkup, list[Finding]]:
    """Look at everything, and say what is wrong with it."""
    collecting = gc.isenabled()
    gc.disable()  # it would look through the records of all data sets again and again: a third of the time
    try:
        survey = Survey(root)
        findings = list(_params_findings(root))
        checkup = survey.checkup()
    finally:
        if collecting:
            gc.enable()
    return checkup, findings + diagnose(checkup, survey.prepare, survey.shares)


def diagnose(checkup: Checkup, prepare: Prepare | None, shares: Shares | None) -> list[Finding]:
    """What is wrong; the sections of params.yaml are None where they are wrong themselves."""
    listed = {key: item for key, item in checkup.datasets.items() if item.listed}
    findings = list(_place_findings(checkup.places))
    findings += [one for key, item in listed.items() for one in _data_findings(key, item)]
    findings += _environment_findings(checkup.environment)
    findings += _share_findings(checkup.environment, shares) if shares else []
    needed = _packed_bytes(listed.values(), prepare.image_size) if prepare else 0
    findings += [one for disk in checkup.disks for one in _disk_findings(disk, needed if "data" in disk.holds else 0)]
    findings += [one for lock in checkup.locks for one in _lock_findings(lock)]
    if checkup.unreachable:
        findings.append(Finding(f"the trial store cannot be reached: {checkup.unreachable}", "mend that"))
    if failed := checkup.trials["failed"]:
        findings.append(Finding(f"{failed} trials have failed", "run them again: make retry", stops=False))
    return findings


def _params_findings(root: Path) -> Iterator[Finding]:
    try:
        from pipeline.planning import plan  # imports torch, and that may be what is missing

        params = load(root / "params.yaml")
        plan.resolve(params, experiments.load(params.experiments))
    except ParamsError as error:
        yield from (
            Finding(problem, "mend it there; params.yaml has a remark on every key") for problem in error.problems
        )
    except ImportError as error:
        yield Finding(f"params.yaml could not be checked: {error}", "make install")


def _place_findings(places: Iterable[Place]) -> Iterator[Finding]:
    for place in places:
        if place.fault:
            yield Finding(
                place.fault, "make that folder or mend the name; until then the other places are looked at", stops=False
            )


def _data_findings(key: str, item: DataSet) -> Iterator[Finding]:
    raw, needed = item.raw, item.prepared.state in ("absent", "damaged")
    problem, _, advice = raw.detail.partition("\n")
    if raw.state in ("missing", "broken"):
        problem = problem if item.name in problem else f"{item.name}: {problem}"
        yield Finding(problem, advice or "mend that, or unpack the data set again", stops=needed)
    elif raw.state == "late":
        said = f"{item.name} was not read within {DATA_SECONDS:.0f} s: the disk is slow"
        yield Finding(said, f"nothing, or see whether this ends: python -m pipeline prepare {key}", stops=False)
    if raw.differences:
        said = f"{item.name} differs from the published set: {_listed(raw.differences)}"
        yield Finding(said, f"compare {raw.path} with what was downloaded; unpack it again", stops=False)
    if item.prepared.state == "damaged":
        said = f"data/{key} is damaged: {item.prepared.detail}"
        yield Finding(said, f"python -m pipeline prepare {key}; python -m pipeline split {key}", stops=False)


def _listed(differences: Mapping[str, Mapping[str, int]]) -> str:
    return ", ".join(
        f"{number:+,} {what} in {split}" for split, off in differences.items() for what, number in off.items()
    )


def _environment_findings(environment: Environment) -> Iterator[Finding]:
    for name, version in environment.installed.items():
        if version is None:
            yield Finding(f"{name} is not installed", "make install")
        elif not _is_pinned(environment, name):
            pin = environment.pinned[name]
            yield Finding(f"{name} is {version}, requirements.lock pins {pin}", "make install", stops=False)
    for said in environment.gpu_warnings:
        yield Finding(
            " ".join(said.split()), "mend the GPU's driver; without it, torch computes on the CPU", stops=False
        )


def _share_findings(environment: Environment, shares: Shares) -> Iterator[Finding]:
    node = Node(environment.cores, len(environment.gpus))
    for name, share in {"the trials": shares.usual, **shares.by_experiment}.items():
        if slots(share, [node]):
            continue
        why = "; see why torch sees no GPU: nvidia-smi" if share.gpus and not node.gpus else ""
        yield Finding(f"{name} ask for {share}, but here is {node}", f"ask for less: resources in params.yaml{why}")


def _packed_bytes(items: Iterable[DataSet], image_size: tuple[int, int]) -> int:
    """What packing would write at most."""
    waiting = [item.raw.counts for item in items if item.prepared.state in ("absent", "damaged")]
    images = sum(count["images"] for counts in waiting for count in counts.values())
    return images * image_size[0] * image_size[1] * 3


def _disk_findings(disk: Disk, needed: int) -> Iterator[Finding]:
    where = f"{disk.path} (for {', '.join(disk.holds)})"
    if not disk.writable:
        yield Finding(f"{where} cannot be written", "change its owner or permissions")
    if disk.free < max(LOW, needed):
        packing = f"; packing writes up to {_gigabytes(needed)}" if needed else ""
        said = f"{where} has {_gigabytes(disk.free)} free{packing}"
        yield Finding(said, "make room there", stops=disk.free < TOO_LOW)


def _lock_findings(lock: Lock) -> Iterator[Finding]:
    if lock.state == "held":
        said = {"sweep": "a sweep is running", "dvc": "a dvc command is running"}.get(lock.name, "outputs are in use")
        yield Finding(
            f"{said}: {lock.owner or 'by an unknown process'}", "wait for it, or stop it: nothing done is lost"
        )
    elif lock.state == "damaged":
        yield Finding(f"{lock.path} is damaged: {lock.owner}", "remove that file, once no dvc command is running")


def _is_pinned(environment: Environment, name: str) -> bool:
    """Whether a version is the pinned one, of whatever build (`+cpu`), or there is no pin to compare with."""
    version = environment.installed[name]
    return version is not None and version.partition("+")[0] == environment.pinned.get(name, version).partition("+")[0]


def _tree(checkup: Checkup, findings: Sequence[Finding]) -> dict[str, Any]:
    """What `--json` prints: `ok`, `problems` (they stop `make repro`) and `warnings`, then the fields of `Checkup`."""
    told = [{"problem": finding.problem, "fix": finding.fix} for finding in findings]
    problems = [entry for entry, finding in zip(told, findings, strict=True) if finding.stops]
    others = [entry for entry, finding in zip(told, findings, strict=True) if not finding.stops]
    return {"ok": not problems, "problems": problems, "warnings": others, **asdict(checkup)}


def show(checkup: Checkup, findings: Sequence[Finding], console: Console) -> None:
    """Print it for people: tables, what was not found, then every problem with its fix."""
    _show_data(checkup, console)
    _show_environment(checkup.environment, console)
    for disk in checkup.disks:
        room = f"{_gigabytes(disk.free)} of {_gigabytes(disk.total)} free"
        console.print(f"disk of {', '.join(disk.holds)}: [{'red' if disk.free < LOW else 'green'}]{room}[/]")
    locks = [
        f"{lock.name} {lock.state}" + f" ({lock.owner})" * bool(lock.owner)
        for lock in checkup.locks
        if lock.state != "free"
    ]
    console.print(f"locks: {escape('; '.join(locks) or 'none is held')}")
    trials = ", ".join(f"{number} {state}" for state, number in checkup.trials.items())
    console.print(f"trials: {trials} {escape(f'({checkup.store})')}")
    _show_findings(findings, console)


def _show_data(checkup: Checkup, console: Console) -> None:
    splits = [split for split in SPLITS if any(split in _counts(item) for item in checkup.datasets.values())]
    columns = (Column(name, overflow="fold") for name in ("data set", "raw images", *splits, "data/<key>"))
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    absent = {}
    for key, item in checkup.datasets.items():
        if not item.listed and item.prepared.state == "absent" and item.raw.state in ("missing", "late"):
            absent[key] = item.raw
            continue
        name = f"[bold]{escape(key)}[/] [dim](listed)[/]" if item.listed else escape(key)
        cells = [_count_cell(item, split) for split in splits]
        table.add_row(name, _raw_cell(item.raw, checkup), *cells, _prepared_cell(item))
    console.print(table)
    console.print("[dim]images / identities; in brackets, the difference from the published set[/]")
    for place in checkup.places:
        console.print(f"looked in {escape(str(place))}")
    for said, keys in _absentees(absent, any(place.exists for place in checkup.places)).items():
        console.print(f"[dim]{escape(said)}:[/] {escape(', '.join(keys))}")


def _absentees(absent: Mapping[str, Raw], somewhere: bool) -> dict[str, list[str]]:
    """The data sets that have nothing to show, under what is to be said of them; `somewhere`: there is a place."""
    grouped: dict[str, list[str]] = {}
    for key, raw in absent.items():
        said = "not read in time" if raw.state == "late" else "not found"
        if raw.state == "missing" and somewhere:
            said += f"; closest folder {raw.closest}" if raw.closest else f"; {raw.detail.partition(chr(10))[0]}"
        grouped.setdefault(said, []).append(key)
    return grouped


def _counts(item: DataSet) -> Mapping[str, Mapping[str, int]]:
    return item.raw.counts or item.prepared.counts


def _count_cell(item: DataSet, split: str) -> str:
    if split not in (counts := _counts(item)) and split not in item.raw.differences:
        return ""
    count = counts.get(split, {"images": 0, "identities": 0})
    off = [f"{number:+,} {what}" for what, number in item.raw.differences.get(split, {}).items()]
    return f"{count['images']:,} / {count['identities']:,}" + (f" [red]({', '.join(off)})[/]" if off else "")


def _raw_cell(raw: Raw, checkup: Checkup) -> str:
    """Where a data set is: below the first place, else in the checkout, else in full."""
    if raw.path is not None:
        above = (folder for folder in (checkup.places[0].path, checkup.root) if raw.path.is_relative_to(folder))
        where = escape(str(raw.path.relative_to(next(above, "/"))))
        return where if raw.state == "found" else f"{where} [dim](archive, not extracted yet)[/]"
    if raw.state == "drawn":
        return "[dim]drawn by prepare[/]"
    said = {"missing": "not found", "broken": raw.detail.partition("\n")[0], "late": "not read in time"}
    return f"[red]{escape(said[raw.state])}[/]"


def _prepared_cell(item: DataSet) -> str:
    prepared = item.prepared
    if prepared.state in ("absent", "damaged"):
        return f"[red]damaged: {escape(prepared.detail)}[/]" if prepared.state == "damaged" else "[dim]not prepared[/]"
    size = " x ".join(map(str, prepared.shape[:3]))
    return f"[green]{prepared.state}[/], {size}, digest {prepared.digest[:12]}"


def _show_environment(environment: Environment, console: Console) -> None:
    table = Table("", "python", *environment.installed, box=box.SIMPLE_HEAD, pad_edge=False)
    cells = [
        f"[{'green' if _is_pinned(environment, name) else 'red'}]{version or 'missing'}[/]"
        for name, version in environment.installed.items()
    ]
    table.add_row("here", environment.python, *cells)
    table.add_row("pinned", "", *(environment.pinned.get(name, "") for name in environment.installed))
    console.print(table)
    gpus = ", ".join(f"{gpu['name']} ({_gigabytes(gpu['memory'])})" for gpu in environment.gpus) or "no GPU"
    memory = "memory unknown"
    if environment.memory is not None and environment.memory_available is not None:
        memory = f"{_gigabytes(environment.memory)} of memory, {_gigabytes(environment.memory_available)} available"
    console.print(f"{environment.cores} cores, {memory}, {escape(gpus)}, torch for CUDA {environment.cuda or 'none'}")


def _show_findings(findings: Sequence[Finding], console: Console) -> None:
    for finding in sorted(findings, key=lambda finding: finding.stops):
        kind = "[bold red]problem[/]" if finding.stops else "[yellow]warning[/]"
        console.print(f"\n{kind} {escape(finding.problem)}\n  fix: {escape(finding.fix)}")
    stopping = sum(finding.stops for finding in findings)
    if stopping:
        console.print(f"\n[bold red]{stopping} of these stop make repro[/]")
    else:
        console.print("\n[bold green]nothing stops make repro[/]")


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
