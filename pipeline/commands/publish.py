"""The report and the best networks in MLflow: files of the sweep's run, and versions of registered models.

What is there already is left as it is, so that calling it twice adds nothing. It is no stage of DVC: that would take an
outage for done, and MLflow is another one in every checkout.
"""

import hashlib
import sys
import tempfile
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from pipeline.mlflow_view import addresses, network, tracking, view
from pipeline.planning.params import Params, load
from pipeline.planning.plan import Trial
from pipeline.planning.strict import redact
from pipeline.report import GENERATED
from pipeline.running import outline
from pipeline.running.agenda import Agenda
from pipeline.running.networks import Place
from pipeline.storage.remote import store_at
from pipeline.storage.store import TrialStore

REPORT, MODEL = "report", "model"
_DIGEST = "report.digest"
_WAIT = 5.0  # seconds, for another writer


@dataclass
class Outcome:
    """What MLflow was given: whether the report, and models by name; `lacking`: why one could not be."""

    report: bool = False
    registered: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)

    @property
    def words(self) -> str:
        """The outcome for people."""
        first = "the report is in MLflow" if self.report else "MLflow has this report already"
        models = f"{len(self.registered)} models registered, {len(self.unchanged)} as they were"
        return "\n".join([f"{first}; {models}", *self.lacking])


def run(root: Path) -> int:
    """Publish for the params.yaml in `root`; 0 whatever becomes of it: a pipeline does not fail for want of MLflow.

    Raises:
        FileNotFoundError: there is no report.
        ParamsError: params.yaml is wrong.
    """
    params = load(root / "params.yaml")
    if not (root / GENERATED / "index.html").is_file():
        raise FileNotFoundError(f"{root / GENERATED} holds no report yet; make it with: dvc repro")
    again = "nothing is lost; the same command tries again: python -m pipeline publish"
    try:
        print(publish(root, params).words)
    except filelock.Timeout:
        print(f"warning: not published: {tracking.BUSY}; {again}", file=sys.stderr)
    except Exception as error:  # whatever MLflow, its database or the network raise: there is one remedy
        uri = redact(addresses.store_uri(params.tracking.uri, root))
        problem = tracking.reason(f"{type(error).__name__}: {error}")
        print(f"warning: not published, MLflow at {uri} failed: {problem}; {again}", file=sys.stderr)
    return 0


def publish(root: Path, params: Params) -> Outcome:
    """Give MLflow what it lacks of the report and of the best networks."""
    store = store_at(params.sweep.store, root, cache=params.sweep.cache)
    agenda = Agenda(outline.declared(root, params), store)
    with tracking.writing(store).acquire(timeout=_WAIT):
        shelf = Shelf(root, params)
        outcome = Outcome(report=shelf.put_report(root / GENERATED))
        for place, trial in agenda.networks.best(store).items():
            _publish(shelf, store, place, trial, outcome)
    return outcome


def _publish(shelf: "Shelf", store: TrialStore, place: Place, trial: Trial, outcome: Outcome) -> None:
    name = "-".join(place)
    if shelf.has(name, trial.key):
        outcome.unchanged.append(name)
    elif not store.has_weights(trial.key):
        outcome.lacking.append(
            f"{name}: the network of its best trial, {trial.name}, is not there; delete {trial.key} in {store.place} "
            "and the next sweep trains it again"
        )
    elif run_id := shelf.run_of(trial.key):
        shelf.register(name, trial, run_id, store)
        outcome.registered.append(name)
    else:
        outcome.lacking.append(f"{name}: MLflow has no run of {trial.name}; python -m pipeline reconcile writes it")


class Shelf:
    """The sweep's run and the registered models of one MLflow. Raises what MLflow raises."""

    def __init__(self, root: Path, params: Params) -> None:
        self._uri = addresses.store_uri(params.tracking.uri, root)
        self._client = tracking.client(self._uri)
        self._sweep = params.profile
        found = self._client.get_experiment_by_name(params.tracking.experiment)
        if found is None:
            raise LookupError(
                f"there is no experiment {params.tracking.experiment}; python -m pipeline reconcile makes it"
            )
        self._experiment = str(found.experiment_id)

    def put_report(self, folder: Path) -> bool:
        """Make the report's files those of the sweep's run, unless they are; whether they were not."""
        run = self._found(view.SWEEP, self._sweep)
        if run is None:
            raise LookupError(f"there is no run of the sweep {self._sweep}; the next sweep makes it")
        digest = _digest(folder)
        known = run.data.tags.get(_DIGEST)
        if known == digest:
            return False
        if known:  # the tables and figures of that report may have other names
            self._remove(run.info.artifact_uri, REPORT)
        self._client.log_artifacts(run.info.run_id, str(folder), REPORT)
        self._client.set_tag(run.info.run_id, _DIGEST, digest)  # last: a kill before it means once more
        return True

    def run_of(self, key: str) -> str:
        """The id of a trial's run; empty if there is none."""
        run = self._found(view.KEY, key)
        return str(run.info.run_id) if run else ""

    def has(self, name: str, key: str) -> bool:
        """Whether a version of a registered model is the network of this trial."""
        versions = self._client.search_model_versions(f"name = '{name}'")
        return any(version.tags.get(view.KEY) == key for version in versions)

    def register(self, name: str, trial: Trial, run_id: str, store: TrialStore) -> None:
        """Add a trial's network as the newest version of a model, made if new."""
        from mlflow.exceptions import MlflowException

        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / MODEL
            _write(folder, Path(scratch) / "network", trial, store)
            self._client.log_artifacts(run_id, str(folder), MODEL)
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{self._client.get_run(run_id).info.artifact_uri}/{MODEL}"
        self._client.create_model_version(name, source, run_id, tags={view.KEY: trial.key, "trial.name": trial.name})

    def _remove(self, artifacts: str, folder: str) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        get_artifact_repository(artifacts, tracking_uri=self._uri).delete_artifacts(folder)

    def _found(self, tag: str, value: str) -> Any:
        return next(
            iter(self._client.search_runs([self._experiment], f"tags.`{tag}` = '{value}'", max_results=1)), None
        )


def _write(folder: Path, scratch: Path, trial: Trial, store: TrialStore) -> None:
    """A network as MLflow's models are: what it takes, what it gives, and the module that loads it."""
    weights = store.weights(trial.key)
    store.fetch(weights)
    network.save(scratch, trial.spec, weights)
    width = network.load(scratch).embedding_dim
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of type hints in MLflow's own modules; and that there is no example
        from mlflow.models import ModelSignature
        from mlflow.pyfunc import save_model
        from mlflow.types import Schema, TensorSpec

        images = Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))])
        embeddings = Schema([TensorSpec(np.dtype(np.float32), (-1, width))])
        save_model(
            folder,
            loader_module=network.__name__,
            data_path=str(scratch),
            signature=ModelSignature(images, embeddings),
            pip_requirements=[],
            metadata={view.KEY: trial.key},
        )


def _digest(folder: Path) -> str:
    """Of all files, by their names."""
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        found.update(f"{content}  {path.relative_to(folder).as_posix()}\n".encode())
    return found.hexdigest()
