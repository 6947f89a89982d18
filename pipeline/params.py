"""params.yaml as a frozen value: one section per stage, checked completely before anything runs.

DVC reads the same file to see what a stage depends on, so a section has its stage's name.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

from pydantic import StringConstraints

from pipeline import experiments
from pipeline.strict import Distinct, Name, ParamsError, Section, override, read_yaml, redact, unknown, validate
from reid.config import Count, Range, Recipe, Settings, TrialConfig
from reid.data.readers import readers
from reid.data.synthetic import SyntheticConfig

__all__ = ["Params", "ParamsError", "Prepare", "Profile", "Split", "Sweep", "Tracking", "load", "override", "redact"]

Url = Annotated[str, StringConstraints(pattern=r"^https?://\S+\z"), "an address that starts with http:// or https://"]


class Prepare(Section):
    """Raw images to packed arrays. `root`: where the data sets lie; `image_size`: the height and width to pack at."""

    root: str | None
    image_size: tuple[Count, Count]
    skip_bad: bool
    workers: Count | None
    synthetic: SyntheticConfig


class Split(Section):
    """Which share of the training identities is held out for searches, and the seed of the draw."""

    val_fraction: Annotated[float, Range(0.01, 0.9)]
    seed: Annotated[int, Range(0)]


class Sweep(Section):
    """Where trials are remembered and what share of a machine each gets; none of it moves a result."""

    store: str
    cpus_per_trial: Count
    gpus_per_trial: Annotated[float, Range(0.0, 1.0)]
    concurrent: Count | None
    checkpoint_epochs: Count
    max_failures: Annotated[int, Range(0)]


class Tracking(Section):
    """MLflow: the server's `uri`, None for a local file, and the address of its pages for links."""

    uri: str | None
    experiment: Name
    ui: Url


class Profile(Section):
    """A scale to run at: dotted paths of `recipe.*` and the values that replace the methods' own."""

    overrides: dict[str, Any]


class Params(Section):
    """The whole file."""

    profile: Name
    datasets: Distinct[Name]
    experiments: Distinct[Name]
    seeds: Distinct[Annotated[int, Range(0)]]
    prepare: Prepare
    split: Split
    sweep: Sweep
    tracking: Tracking
    profiles: dict[Name, Profile]


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check params.yaml.

    Raises:
        ParamsError: one line for every problem: the dotted path, what is wrong, what is allowed, the nearest match.
    """
    params = validate(Params, read_yaml(path), where=path.name)
    problems = [f"{path.name}: {problem}" for problem in [*_unknown_names(params), *_bad_profiles(params)]]
    if problems:
        raise ParamsError(problems)
    return params


def _unknown_names(params: Params) -> list[str]:
    chosen: list[tuple[str, tuple[str, ...], Collection[str]]] = [
        ("profile", (params.profile,), params.profiles),
        ("datasets", params.datasets, readers()),
        ("experiments", params.experiments, experiments.names()),
    ]
    return [f"{key} {unknown(name, known)}" for key, wanted, known in chosen for name in wanted if name not in known]


def _bad_profiles(params: Params) -> list[str]:
    """Problems of all profiles, the unselected ones too, found on the default recipe: every method has its fields."""
    shared = TrialConfig(method="any", model=Settings(), recipe=Recipe())
    problems: list[str] = []
    for name, profile in params.profiles.items():
        try:
            override(shared, profile.overrides, where=f"profiles.{name}.overrides", sections=("recipe",))
        except ParamsError as error:
            problems += error.problems
    return problems
