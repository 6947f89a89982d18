"""The command line. Each command loads params.yaml, calls one function and turns what went wrong into an exit code.

0: done. 1: doctor found what stops a run. 2: params.yaml or the data are wrong, nothing was started. 3: trials are
unfinished. 4: another sweep runs.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from pipeline.params import Params, ParamsError, load

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a machine to read.")]
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
    from pipeline import experiments
    from pipeline import plan as planning
    from pipeline import prepare as stage

    params = _known(dataset)
    tables = experiments.load(params.experiments)
    rows = planning.resolve(params, tables, dataset)  # the sweep's mistakes come before any work
    configs = [config for experiment in rows.values() for config in experiment if config]
    stage.run(Path.cwd(), dataset, params, configs=configs, option=root)


@app.command()
def split(dataset: str) -> None:
    """Hold out training identities for validation."""
    from pipeline import split as stage

    stage.run(Path.cwd(), dataset, _known(dataset))


@app.command()
def plan(as_json: AsJson = False) -> None:
    """Say what a sweep would train, without training anything."""
    from pipeline import sweep as stage

    summary = stage.outline(Path.cwd())
    print(json.dumps(summary) if as_json else stage.describe(summary))


@app.command()
def sweep() -> None:
    """Train every trial of the selected experiments that the store lacks, and export the results."""
    from pipeline import sweep as stage

    sys.exit(stage.run(Path.cwd()))


@app.command()
def report() -> None:
    """Build tables, page and figures from the results."""
    from pipeline import report as stage

    stage.run(Path.cwd())


@app.command()
def show() -> None:
    """Print the tables of the last report, and where the page is."""
    folder = Path("reports/generated")
    if not (folder / "index.html").exists():
        raise FileNotFoundError(f"{folder} holds no tables yet; make them with: make repro")
    for name in load(Path("params.yaml")).experiments:
        print((folder / f"{name}.md").read_text())
    print(f"The page: {folder / 'index.html'}    The runs in MLflow: make ui")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what is here, what is missing and what mends it; exit code 1 if something stops `make repro`."""
    from pipeline import doctor as stage

    sys.exit(stage.run(Path.cwd(), as_json=as_json))


@app.command()
def ui() -> None:
    """Start MLflow's page on 127.0.0.1, over this checkout's runs or over the server that params.yaml names."""
    from pipeline import links, tracking

    params = load(Path("params.yaml"))
    port = urlsplit(params.tracking.ui).port or 5000
    command, environment = tracking.ui_command(params.tracking.uri, Path.cwd(), port=port)
    print(f"MLflow: {links.home_url(params.tracking.ui)}  (Ctrl-C ends it)", flush=True)
    sys.exit(subprocess.run(command, env=environment, check=False).returncode)


def _known(dataset: str) -> Params:
    """The parameters, once it is sure that they name this data set."""
    params = load(Path("params.yaml"))
    if dataset not in params.datasets:
        raise ParamsError([f"{dataset}: not one of params.yaml's datasets: {', '.join(params.datasets)}"])
    return params
