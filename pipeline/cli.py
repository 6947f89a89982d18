"""The command line. Each command loads params.yaml, calls one function and turns what went wrong into an exit code.

0: done. 1: doctor found what stops a run, or verify what is wrong. 2: params.yaml, the data or the cluster are wrong,
or a sweep would take longer than `sweep.ask_above_hours` and was not told --yes: nothing was started; or MLflow could
not be told everything. 3: trials are unfinished. 4: a sweep runs, or another process writes to MLflow.
"""

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from pipeline.planning.strict import ParamsError

if TYPE_CHECKING:
    from pipeline.planning.params import Params
    from pipeline.running.cluster import Node

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a machine to read.")]
Checkout = Annotated[Path, typer.Option("--root", help="The checkout to look at; this folder if none is named.")]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        envvar="REID_ADDRESS",
        metavar="HOST:PORT",
        help="The head of a Ray cluster to run on, or auto: the one this machine is part of. None: this machine alone.",
    ),
]
Root = Annotated[
    str | None,
    typer.Option("--root", help="Where downloaded data sets lie; it comes before the environment and params.yaml."),
]


def main() -> None:
    """Run a command; what the user can mend is one line on stderr and exit code 2, never a traceback."""
    try:
        app()
    except PermissionError as error:
        print(f"{error}; change its owner or permissions", file=sys.stderr)
        sys.exit(2)
    except (ParamsError, FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)


@app.command()
def prepare(dataset: str, root: Root = None) -> None:
    """Read a data set's raw folder (or draw the embedded one), check and pack it."""
    from pipeline import prepare as stage
    from pipeline.planning import experiments
    from pipeline.planning import plan as planning

    params = _known(dataset)
    rows = planning.resolve(
        params, experiments.load(params.experiments), dataset
    )  # the sweep's mistakes come before any work
    configs = [config for experiment in rows.values() for config in experiment if config]
    stage.run(Path.cwd(), dataset, params, configs=configs, option=root)


@app.command()
def split(dataset: str) -> None:
    """Hold out training identities for validation."""
    from pipeline import split as stage

    stage.run(Path.cwd(), dataset, _known(dataset))


@app.command()
def plan(as_json: AsJson = False, address: Address = None) -> None:
    """Say what a sweep would train and what that costs, without training anything."""
    nodes = _reached(address)[1]
    from pipeline.running import outline

    outline.run(Path.cwd(), as_json=as_json, nodes=nodes)


@app.command()
def sweep(
    yes: Annotated[
        bool, typer.Option("--yes", envvar="REID_YES", help="However long it takes; REID_YES=1 says so to dvc repro.")
    ] = False,
    address: Address = None,
) -> None:
    """Train every trial of the selected experiments that the store lacks, and export the results."""
    head, nodes = _reached(address)
    from pipeline import sweep as stage

    sys.exit(stage.run(Path.cwd(), head, nodes, yes=yes))


@app.command()
def status(
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every 2 s until the sweep has ended.")] = False,
    root: Checkout = Path(),
) -> None:
    """Say how far a sweep is: done, failed and why, running, waiting, and how long it still takes."""
    from pipeline.commands import status as stage

    stage.run(root.absolute(), as_json=as_json, watch=watch)


@app.command()
def retry(
    names: Annotated[
        list[str] | None, typer.Argument(help="Keys, names or rows (`bdb_table2: BDB`); none: all.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Forget failures, so that the next sweep tries those trials; `make retry` starts it, too."""
    from pipeline.commands import retry as stage

    sys.exit(stage.run(Path.cwd(), names or (), as_json=as_json))


@app.command()
def gc(
    yes: Annotated[bool, typer.Option("--yes", help="Delete what is listed.")] = False,
    older_than: Annotated[float, typer.Option("--older-than", min=0, metavar="DAYS", help="Not what is newer.")] = 0.0,
    undeclared: Annotated[
        bool, typer.Option("--undeclared", help="Trials that other parameters declare, too, though code and data fit.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List what of the trial store nothing that params.yaml declares needs any more."""
    from pipeline.commands import gc as stage

    sys.exit(stage.run(Path.cwd(), yes=yes, older_than=older_than, undeclared=undeclared, as_json=as_json))


@app.command()
def report() -> None:
    """Build tables, page and figures from the results."""
    from pipeline import report as stage

    stage.run(Path.cwd())


@app.command()
def publish() -> None:
    """Give MLflow the last report, and the best network of each table as a model; nothing twice."""
    from pipeline.commands import publish as step

    sys.exit(step.run(Path.cwd()))


@app.command()
def show() -> None:
    """Print the tables of the last report, and where the page is."""
    from pipeline.planning.params import load

    folder = Path("reports/generated")
    if not (folder / "index.html").exists():
        raise FileNotFoundError(f"{folder} holds no tables yet; make them with: make repro")
    for name in load(Path("params.yaml")).experiments:
        print((folder / f"{name}.md").read_text())
    print(f"The page: {folder / 'index.html'}    The runs in MLflow: make ui")


@app.command()
def why(
    table: Annotated[str, typer.Argument(help="Name of the experiment: bdb_table2.")],
    row: Annotated[str, typer.Argument(help="Label of one of its rows of ours.")],
    column: Annotated[str, typer.Argument(help="mAP; of several data sets, 'Market-1501: mAP'.")],
    as_json: AsJson = False,
) -> None:
    """Say what one printed number rests on: its runs, settings, code, data, cost, comparison and published value."""
    from pipeline.commands import why as stage

    stage.run(Path.cwd(), table, row, column, as_json=as_json)


@app.command()
def verify(as_json: AsJson = False) -> None:
    """Recompute every printed number from the stored values of the queries; exit code 1 if one is wrong."""
    from pipeline.commands import verify as stage

    sys.exit(stage.run(Path.cwd(), as_json=as_json))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what is here, what is missing and what mends it; exit code 1 if something stops `make repro`."""
    from pipeline.commands import doctor as stage

    sys.exit(stage.run(Path.cwd(), as_json=as_json))


@app.command()
def reconcile(as_json: AsJson = False) -> None:
    """Write to MLflow what it lacks of the trials in the store, and close the runs of what died."""
    from pipeline.commands import reconcile as stage

    sys.exit(stage.run(Path.cwd(), as_json=as_json))


@app.command()
def ui() -> None:
    """Start MLflow's page on 127.0.0.1, over this checkout's runs or over the server that params.yaml names."""
    from pipeline.mlflow_view import addresses
    from pipeline.planning.params import load
    from pipeline.reporting import links

    params = load(Path("params.yaml"))
    port = urlsplit(params.tracking.ui).port or 5000
    command, environment = addresses.ui_command(params.tracking.uri, Path.cwd(), port=port)
    print(f"MLflow: {links.home_url(params.tracking.ui)}  (Ctrl-C ends it)", flush=True)
    sys.exit(subprocess.run(command, env=environment, check=False).returncode)


def _reached(option: str | None) -> "tuple[str | None, tuple[Node, ...] | None]":
    """The cluster to run on and its machines; asked before torch is imported, so that what is wrong is said soon."""
    from pipeline.running import cluster

    head = cluster.named(option)
    return head, cluster.reach(head) if head else None


def _known(dataset: str) -> "Params":
    """The parameters, once it is sure that they name this data set."""
    from pipeline.planning.params import load  # takes a while, and `status` does without

    params = load(Path("params.yaml"))
    if dataset not in params.datasets:
        raise ParamsError([f"{dataset}: not one of params.yaml's datasets: {', '.join(params.datasets)}"])
    return params
