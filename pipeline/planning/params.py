"""params.yaml as a frozen value: one section per stage, checked completely before anything runs.

DVC reads the same file to see what a stage depends on, so a section has its stage's name.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import StringConstraints

from pipeline.planning import experiments
from pipeline.planning.shares import Share, Shares
from pipeline.planning.strict import (
    Distinct,
    Name,
    ParamsError,
    Section,
    nearest,
    override,
    read_yaml,
    unknown,
    validate,
)
from reid.config import Count, Range, Recipe, Settings, TrialConfig, flatten, to_dict
from reid.data.archives import Limits
from reid.data.decode import Fit
from reid.data.readers import readers
from reid.data.synthetic import SyntheticConfig
from reid.visualize.picture import Shown

__all__ = [
    "Params",
    "ParamsError",
    "Prepare",
    "Profile",
    "Report",
    "Split",
    "Sweep",
    "Tracking",
    "load",
    "overridden",
    "scaled",
]

Url = Annotated[str, StringConstraints(pattern=r"^https?://\S+\z"), "an address that starts with http:// or https://"]

_SCHEMES = ("s3", "gs")  # of servers whose writes are whole and that can refuse to replace an object

Place = Annotated[
    str,
    StringConstraints(pattern=rf"^(?:(?:{'|'.join(_SCHEMES)})://[^/\s]+(?:/\S*)?|[^:]+)\z"),
    f"a folder, or an address that starts with {' or '.join(f'{scheme}://' for scheme in _SCHEMES)}",
]

Minutes = Annotated[float, Range(0.001)]


class Packing(Section):
    """The height and width to pack images at, and how they are fitted: `stretch`, or `pad`, which keeps their shape."""

    image_size: tuple[Count, Count]
    fit: Fit


class Prepare(Section):
    """Raw images to packed arrays. `root`: where the data sets lie; `image_size`: the height and width to pack at.

    `by_dataset`: the packing of those data sets that are not stretched to that size. `allow_withdrawn`: read data sets
    that their authors have taken back. `max_pixels` an image, and `archives`: what is more is refused.
    """

    root: str | None
    allow_withdrawn: bool
    image_size: tuple[Count, Count]
    by_dataset: dict[Name, Packing]
    max_pixels: Count
    skip_bad: bool
    workers: Count | None
    archives: Limits
    synthetic: SyntheticConfig

    def packing(self, dataset: str) -> Packing:
        """That of one data set."""
        if dataset in self.by_dataset:
            return self.by_dataset[dataset]
        return Packing(image_size=self.image_size, fit="stretch")


class Split(Section):
    """Which share of the training identities is held out for searches, and the seed of the draw."""

    val_fraction: Annotated[float, Range(0.01, 0.9)]
    seed: Annotated[int, Range(0)]


class Part(Section):
    """Those fields of a `Share` that are not as usual; None: as usual."""

    cpus: Count | None = None
    gpus: Annotated[float, Range(0.0)] | None = None
    processes: Count | None = None

    def of(self, usual: Share) -> Share:
        """The usual share with these fields."""
        return replace(usual, **self.model_dump(exclude_none=True))


class Sweep(Section):
    """Where trials are remembered and what share of a machine and of time each gets; none of it moves a result.

    `resources`: a trial's share; `resources_by_experiment`: what differs for those of an experiment.
    `trial_minutes`, for an attempt, and `silent_minutes`, between two of its epochs, are whole minutes or parts of one;
    None: no limit.
    `store`: a folder or the URL of one. `data`: the same, for what machines stage the packed data sets from; None: they
    use the checkout's own folder. `cache`: a machine's own folder for what it brings from either.
    `ask_above_hours`: a sweep that is estimated to take longer, one trial after the other, starts with `--yes` alone.
    """

    store: Place
    data: Place | None
    cache: str
    resources: Share
    resources_by_experiment: dict[Name, Part]
    concurrent: Count | None
    checkpoint_epochs: Count
    trial_minutes: Minutes | None
    silent_minutes: Minutes | None
    max_failures: Annotated[int, Range(0)]
    ask_above_hours: Annotated[float, Range(0.0)]


class Tracking(Section):
    """MLflow: the server's `uri`, None for a local file, and the address of its pages for links."""

    uri: str | None
    experiment: Name
    ui: Url


class Report(Section):
    """`images`: whether pictures show the data sets' images as they are, blurred, or not at all.

    `auto` shows the embedded data set, which is of nobody, and blurs all others.
    """

    images: Literal["auto", "show", "blur", "omit"]

    def shown(self, dataset: str) -> Shown:
        """What becomes of the images of one data set."""
        if self.images == "auto":
            return "show" if dataset == "synthetic" else "blur"
        return self.images


class Profile(Section):
    """A scale to run at: dotted paths and the values that replace the methods' own; `scaled` says how.

    `overrides`: of `recipe.*`, for every method. `methods`: by method, of `recipe.*` and `model.*`. `datasets`: by data
    set, of `recipe.*`. `resources`: what differs from `sweep.resources` at this scale.
    """

    overrides: dict[str, Any]
    methods: dict[Name, dict[str, Any]]
    datasets: dict[Name, dict[str, Any]]
    resources: Part = Part()


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
    report: Report
    profiles: dict[Name, Profile]

    def shares(self) -> Shares:
        """What the trials of the selected profile get."""
        return shares(self.sweep, self.profiles[self.profile])


def shares(sweep: Sweep, profile: Profile) -> Shares:
    """What the trials of a profile get.

    Raises:
        ValueError: it does not go together.
    """
    usual = profile.resources.of(sweep.resources)
    return Shares(usual, {name: part.of(usual) for name, part in sweep.resources_by_experiment.items()})


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check params.yaml.

    Raises:
        ParamsError: one line for every problem: the dotted path, what is wrong, what is allowed, the nearest match.
    """
    params = validate(Params, read_yaml(path), where=path.name)
    found = [*_unknown_names(params), *_not_readable(params.prepare.by_dataset, "prepare.by_dataset")]
    problems = [f"{path.name}: {problem}" for problem in [*found, *_bad_profiles(params), *_bad_shares(params)]]
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


def _bad_shares(params: Params) -> Iterator[str]:
    """Problems of the shares of every profile, the unselected ones too."""
    own = params.sweep.resources_by_experiment
    for name in sorted(own.keys() - set(experiments.names())):
        close = nearest(name, experiments.names(), prefix="sweep.resources_by_experiment.")
        yield f"sweep.resources_by_experiment.{name} is unknown{close or '; allowed: names of experiments'}"
    for profile in params.profiles:
        try:
            usual = params.profiles[profile].resources.of(params.sweep.resources)
        except ValueError as error:
            yield f"profiles.{profile}.resources: {error}"
        else:
            yield from _misfits(own, usual, profile)


def _misfits(own: Mapping[str, Part], usual: Share, profile: str) -> Iterator[str]:
    for name, part in own.items():
        try:
            part.of(usual)
        except ValueError as error:
            yield f"sweep.resources_by_experiment.{name}: {error} (profile {profile})"


def _not_readable(datasets: Iterable[str], where: str) -> Iterator[str]:
    """Problems of keys that should be those of data sets."""
    for dataset in datasets:
        if dataset not in readers():
            close = nearest(dataset, readers(), prefix=f"{where}.")
            yield f"{where}.{dataset} is unknown{close or '; allowed: ' + ', '.join(readers())}"


def overridden(config: TrialConfig, changes: Mapping[str, Any], *, where: str, **options: Any) -> TrialConfig:
    """As `strict.override`, and the backbone must be one there is.

    Raises:
        ParamsError: one line for every unknown path and every value that is not allowed there.
    """
    from reid.parts.backbone import BACKBONES  # imports torch, and `doctor` must run where that does not

    changed = override(config, changes, where=where, **options)
    if changed.recipe.backbone not in BACKBONES:
        raise ParamsError([f"{where}: recipe.backbone {unknown(changed.recipe.backbone, BACKBONES)}"])
    return changed


def scaled(config: TrialConfig, profile: Profile, *, default: Settings, dataset: str | None, where: str) -> TrialConfig:
    """A variant's configuration at a profile's scale.

    The profile's `overrides` come first, then those of the method, then those of the data set. Of a method's, a value
    of `model.*` stands for its default alone: where the variant departs from the default, that is what the variant is,
    and it stays.

    Args:
        config: the method's recipe with the variant's model.
        profile: the scale.
        default: the model of the method's variant `default`.
        dataset: what is trained on; None: any that the profile does not name.
        where: the profile's dotted path, what each problem's line starts with.

    Raises:
        ParamsError: one line for every unknown path and every value that is not allowed there.
    """
    found = overridden(config, profile.overrides, where=f"{where}.overrides", sections=("recipe",))
    if config.method in profile.methods:
        own, usual = (dict(flatten(to_dict(model), "model.")) for model in (config.model, default))
        changes = profile.methods[config.method]
        kept = {path for path in changes if path in own and own[path] != usual[path]}
        changes = {path: value for path, value in changes.items() if path not in kept}
        found = overridden(found, changes, where=f"{where}.methods.{config.method}")
    if dataset not in profile.datasets:
        return found
    return overridden(found, profile.datasets[dataset], where=f"{where}.datasets.{dataset}", sections=("recipe",))


def _bad_profiles(params: Params) -> list[str]:
    """Problems of all profiles, the unselected ones too."""
    return [
        problem for name, profile in params.profiles.items() for problem in _bad_profile(profile, f"profiles.{name}")
    ]


def _bad_profile(profile: Profile, where: str) -> Iterator[str]:
    """Problems of the shared overrides, on the default recipe, which has every method's fields; then of the others."""
    from reid import methods  # imports torch

    shared = TrialConfig(method="any", model=Settings(), recipe=Recipe())
    yield from _problems(shared, profile, Settings(), where)
    yield from _not_readable(profile.datasets, f"{where}.datasets")
    rest = profile.model_copy(update={"overrides": {}})
    for dataset in profile.datasets:
        yield from _problems(shared, rest, Settings(), where, dataset=dataset)
    for method in profile.methods:
        if method in methods.names():
            own = profile.model_copy(update={"overrides": {}})
            yield from _bad_method(method, own, variants=methods.variants(method), where=where)
        else:
            close = nearest(method, methods.names(), prefix=f"{where}.methods.")
            yield f"{where}.methods.{method} is unknown{close or '; allowed: ' + ', '.join(methods.names())}"


def _bad_method(method: str, profile: Profile, *, variants: Mapping[str, Settings], where: str) -> list[str]:
    """Problems of one method's overrides on its default; else those that only a variant has, the variant named."""
    found = {
        name: _problems(TrialConfig(method=method, model=model, recipe=Recipe()), profile, variants["default"], where)
        for name, model in variants.items()
    }
    rest = [f"{problem} (variant {name})" for name, problems in found.items() for problem in problems]
    return found["default"] or rest


def _problems(
    config: TrialConfig, profile: Profile, default: Settings, where: str, *, dataset: str | None = None
) -> list[str]:
    try:
        scaled(config, profile, default=default, dataset=dataset, where=where)
    except ParamsError as error:
        return list(error.problems)
    return []
