"""Every ablation the papers print has a row here, and the row's configuration is what the printed row says it is.

The published files carry the components of each row as flags. `MEANINGS` reads the same flags off a configuration, so
that a swapped variant cannot hide behind its label; where no flag speaks of a value, it is the method's own.
"""

import csv
import functools
import importlib
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.planning import experiments
from pipeline.planning.experiments import PUBLISHED, Row
from pipeline.planning.params import load
from pipeline.planning.plan import resolve
from reid import methods
from reid.config import TrialConfig, flatten, to_dict

pytestmark = pytest.mark.xdist_group(__name__)  # all rest on the rows resolved, which takes long
PARAMS = load(Path(__file__).parents[3] / "params.yaml")
PROFILES = tuple(PARAMS.profiles)
ALL = experiments.load(tuple(experiments.names()))

# The tables that hold variants of the papers' own, by paper. A table of experiments that is not here, or the other way
# round, is a mistake.
TABLES = {
    "bdb": ("table1", "table2", "table3", "table4", "table5", "table7a", "table7b", "table7c", "table7d", "table8"),
    "saadb": ("table1", "table2", "table3", "table4", "table5"),
    "han": ("tableii", "tableiii", "tableiv", "tablev", "tablevi", "tablevii", "tableviii", "tableix", "tablex"),
    "sonanet": ("table2", "table3", "table4", "table5"),
    "esnet": (
        "tablei",
        "tableii",
        "tableiii",
        "tableiv",
        "tablev",
        "tablevi",
        "tablevii",
        "tableviii",
        "tableix",
        "tablex",
    ),
}
PRINTED_HERE = {f"{paper}_{table}" for paper, tables in TABLES.items() for table in tables}


# --- what the flags mean ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Meaning:
    """How a flag's value is read off a configuration, and the fields that it may move from the method's own."""

    read: Callable[[Any], Any]
    fields: frozenset[str]


def meaning(read: Callable[[Any], Any], *fields: str) -> Meaning:
    return Meaning(read, frozenset(fields))


def han_tricks(config: Any) -> bool | None:
    """Random erasing, warm-up and label smoothing; None where only some of them are there."""
    smoothing, erasing = config.model.label_smoothing, config.recipe.augment.random_erasing
    found = {smoothing > 0, erasing > 0, config.recipe.schedule.name == "S2"}
    return found.pop() if len(found) == 1 else None


def field(path: str) -> Meaning:
    """A field as it is, by its dotted path."""
    return meaning(lambda config: dict(flatten(to_dict(config)))[path], path)


def es_branches(config: Any) -> list[str]:
    """Which of the two there are; one alone is Base with something added."""
    return ["AIB", "ESB"] if config.model.all_branch and config.model.erasing_branch else ["base"]


def es_eraser(config: Any) -> str | None:
    """What erases in place of BESM, if it is one thing."""
    erasers = {
        "random_erasing": config.recipe.augment.random_erasing > 0,
        "grad_cam": config.model.erasing_branch and config.model.erase == "grad_cam",
        "batch_dropblock": config.model.drop_branch,
    }
    found = [name for name, there in erasers.items() if there]
    return found[0] if len(found) == 1 else None


SONA = {
    "drop_op": meaning(lambda config: config.model.drop_op, "model.drop_op"),
    "sona_after_stage": meaning(lambda config: list(config.model.sona_after_stage), "model.sona_after_stage"),
}
MEANINGS: dict[str, dict[str, Meaning]] = {
    "bdb": {
        "global_branch": meaning(
            lambda config: config.method == "baseline" or config.model.global_branch, "model.global_branch"
        ),
        "drop_branch": meaning(lambda config: config.method == "bdb" and config.model.drop_branch, "model.drop_branch"),
        "triplet": meaning(lambda config: config.model.triplet, "model.triplet"),
        "cutout": meaning(lambda config: config.recipe.augment.cutout > 0, "recipe.augment.cutout"),
        "random_erasing": meaning(
            lambda config: config.recipe.augment.random_erasing > 0, "recipe.augment.random_erasing"
        ),
        "drop_op": meaning(
            lambda config: config.model.drop_op.replace("dropblock_single", "dropblock"), "model.drop_op"
        ),
        "metric_loss": meaning(  # flagged in image retrieval alone, where the block is another
            lambda config: config.model.triplet and config.model.metric_loss,
            *("model.triplet", "model.metric_loss", "model.rh", "model.rw"),
        ),
    },
    "saadb": {
        "global": meaning(lambda config: config.model.global_branch, "model.global_branch"),
        "drop": meaning(lambda config: config.model.drop, "model.drop"),
        "attention": meaning(lambda config: config.model.attention, "model.attention"),
    },
    "sonanet": SONA,
    "han": {
        "tricks": meaning(
            han_tricks,
            *("model.label_smoothing", "recipe.augment.random_erasing", "recipe.schedule.name", "model.layout"),
        ),
        "mpfe": meaning(lambda config: config.model.mpfe, "model.mpfe", "model.triplet"),
        "mgo": meaning(lambda config: config.model.stripes > 1, "model.stripes"),
        "sam": meaning(lambda config: "SAM" in config.model.order, "model.order", "model.stages"),
        "cam": meaning(lambda config: "CAM" in config.model.order, "model.order", "model.stages"),
        "order": meaning(lambda config: list(config.model.order), "model.order", "model.stages"),
        "stages": meaning(lambda config: list(config.model.stages), "model.stages"),
    },
    "esnet": {
        "branches": meaning(es_branches, "model.all_branch", "model.erasing_branch"),
        "besm": meaning(  # where nothing is erased, R and P are of no matter
            lambda config: config.model.erasing_branch and config.model.erase == "besm",
            *("model.erasing_branch", "model.erase", "model.erase_ratio", "model.erase_probability"),
        ),
        "ppool": meaning(lambda config: config.model.erasing_branch and config.model.pool == "ppool", "model.pool"),
        "pool": field("model.pool"),
        "ppool_in_aib": meaning(lambda config: config.model.pool_aib == "ppool", "model.pool_aib"),
        "triplet": field("model.triplet"),
        "R": field("model.erase_ratio"),
        "P": field("model.erase_probability"),
        "erase": meaning(es_eraser, "model.erase", "model.drop_branch", "recipe.augment.random_erasing"),
    },
}


def with_what_goes_without_saying(stem: str, flags: dict[str, Any]) -> dict[str, Any]:
    """ES-Net's flags in full: AIB and ESB alone are Base with their parts, and R and P are as its YAML file says."""
    if not stem.startswith("esnet"):
        return flags
    both, vehicles = len(flags["branches"]) == 2, stem in ("esnet_tableviii", "esnet_tableix", "esnet_tablex")
    erases = flags["besm"] or flags.get("erase") == "grad_cam"
    strength = {"R": 0.2, "P": 0.5} if both or vehicles else {"R": 0.1, "P": 0.3}
    return (strength if erases else {}) | flags | {"branches": flags["branches"] if both else ["base"]}


# --- the printed rows and ours ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """A row of ours, with its configuration under a profile."""

    label: str
    row: Row
    config: TrialConfig


@functools.cache
def resolved(profile: str) -> dict[str, list[Asked]]:
    """All rows of ours by experiment."""
    configs = resolve(PARAMS.model_copy(update={"profile": profile}), ALL)
    return {
        experiment.name: [
            Asked(f"{experiment.name}: {row.label}", row, config)
            for row, config in zip(experiment.rows, configs[experiment.name], strict=True)
            if config is not None
        ]
        for experiment in ALL
    }


def flagged() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """File, method and flags of every printed variant of a paper's own; of others only the backbone is flagged."""
    for path in sorted(PUBLISHED.glob("*_table*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            printed = {(line["method"], line["variant_flags"]) for line in csv.DictReader(file)}
        for method, flags in sorted(printed):
            if flags and set(own := json.loads(flags)) - {"backbone"}:
                yield path.stem, method, with_what_goes_without_saying(path.stem, own)


OWN = list(flagged())


def rows_of(stem: str, method: str, profile: str) -> list[Asked]:
    """The rows of ours that stand for a printed one."""
    return [asked for asked in resolved(profile).get(stem, []) if method == asked.row.published_method]


def wrong_flags(paper: str, flags: dict[str, Any], config: TrialConfig) -> dict[str, tuple[Any, Any]]:
    """Flags of which a configuration says something else, each with what is printed and what it says."""
    known = MEANINGS[paper]
    assert set(flags) - {"backbone"} <= set(known), f"a flag without a meaning in {sorted(flags)}: add it to MEANINGS"
    told = {flag: (value, known[flag].read(config)) for flag, value in flags.items() if flag != "backbone"}
    return {flag: (value, found) for flag, (value, found) in told.items() if value != found}


def moved(config: TrialConfig) -> set[str]:
    """The fields in which a configuration is not its method's own, the published one."""
    usual = TrialConfig(method=config.method, model=methods.config(config.method), recipe=methods.recipe(config.method))
    own = dict(flatten(to_dict(config)))
    return {path for path, value in flatten(to_dict(usual)) if own[path] != value}


def test_every_table_with_variants_of_its_own_is_known() -> None:
    assert {stem for stem, _, _ in OWN} == PRINTED_HERE
    tables = [str(item.published) for item in ALL if item.published and item.kind == "table"]
    assert {stem for stem in tables if "+" not in stem and not stem.endswith("_text")} == PRINTED_HERE


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(("stem", "method", "flags"), OWN, ids=[f"{stem}-{method}" for stem, method, _ in OWN])
def test_a_printed_row_has_one_of_ours_that_is_what_it_says(
    stem: str, method: str, flags: dict[str, Any], profile: str
) -> None:
    asked = rows_of(stem, method, profile)
    assert asked, f"no row says how to make {method!r} of {stem}"
    for item in asked:
        assert wrong_flags(stem.split("_")[0], flags, item.config) == {}, item.label


@pytest.mark.parametrize(("stem", "method", "flags"), OWN, ids=[f"{stem}-{method}" for stem, method, _ in OWN])
def test_a_row_moves_nothing_that_no_flag_speaks_of(stem: str, method: str, flags: dict[str, Any]) -> None:
    meanings = MEANINGS[stem.split("_")[0]]
    spoken = {"model.agw"} if flags.get("backbone") == "AGW" else set()
    spoken = spoken.union(*(meanings[flag].fields for flag in flags if flag in meanings))
    for item in rows_of(stem, method, "paper"):
        assert moved(item.config) <= spoken, item.label


def test_printed_backbones_are_those_of_the_recipes() -> None:
    for stem, method, flags in (item for item in OWN if "backbone" in item[2]):
        for asked in rows_of(stem, method, "paper"):
            found = {"resnet50": "ResNet50"}[asked.config.recipe.backbone]
            agw = getattr(asked.config.model, "agw", False)
            assert ("AGW" if agw else found) == flags["backbone"].replace("-", ""), asked.label


def test_every_row_of_ours_in_a_table_is_a_printed_variant() -> None:
    """So that none escapes the test above; AGW's own row of ES-Net's Table VII is another paper's method."""
    printed = {(stem, method) for stem, method, _ in OWN} | {("esnet_tablevii", "AGW")}
    for stem in PRINTED_HERE:
        ours = [(stem, item.row.published_method) for item in resolved("paper")[stem]]
        assert set(ours) <= printed


# --- figures: no numbers are printed, so here is what is swept -------------------------------------------------------

HEIGHTS, SHARES = (0.1, 0.2, 0.3, 0.4, 0.5), (0.0, 0.1, 0.2, 0.3, 0.4)
ES = MEANINGS["esnet"]
FIGURES: dict[str, tuple[tuple[Meaning, ...], list[tuple[Any, ...]]]] = {
    "bdb_fig7a": ((field("model.rh"), field("model.drop_pool")), [(height, "max") for height in HEIGHTS]),
    "bdb_fig7b": (
        (field("model.drop_pool"), field("model.rh")),
        list(itertools.product(("avg", "max"), HEIGHTS)),
    ),
    "esnet_fig3": (
        (ES["branches"], ES["besm"], ES["ppool"], ES["triplet"], field("model.probe_erased")),
        [(["base"], besm, ppool, False, True) for besm, ppool in ((False, False), (True, False), (True, True))],
    ),
    "esnet_fig4": (
        (ES["branches"], ES["besm"], ES["ppool"], ES["triplet"], ES["P"], ES["R"]),
        [(["base"], True, True, True, 0.3, share) for share in SHARES]
        + [(["AIB", "ESB"], True, True, True, 0.5, share) for share in SHARES],
    ),
    "esnet_fig6": (
        (field("recipe.sampler.identities"), field("recipe.sampler.images")),
        [(32, 2), (16, 4), (8, 8), (4, 16)],
    ),
}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_sweeps_what_the_paper_s_does(name: str, profile: str) -> None:
    meanings, points = FIGURES[name]
    assert [tuple(item.read(asked.config) for item in meanings) for asked in resolved(profile)[name]] == points


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_moves_nothing_else(name: str) -> None:
    spoken = frozenset().union(*(item.fields for item in FIGURES[name][0]))
    for asked in resolved("paper")[name]:
        assert moved(asked.config) <= spoken, asked.label


def test_every_experiment_is_a_table_a_figure_a_search_pictures_or_statistics() -> None:
    others = {item.name for item in ALL if item.kind == "table"} - PRINTED_HERE - set(FIGURES)
    in_prose = {"saadb_text", "sonanet_text", "sonanet_stage4", "han_text"}
    assert others == {"comparison", "bdb_branches", "saadb_test_map"} | in_prose


# --- what is asked for can be built ----------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES)
def test_every_row_builds_and_embeds_images_of_its_size(profile: str) -> None:
    """A small trunk of the same strides, on the meta device, where nothing is computed: sizes are as in a trial."""
    labels = {
        (item.config.method, item.config.model, item.config.recipe.image_size): item.label
        for asked in resolved(profile).values()
        for item in asked
    }
    for (method, model, size), label in labels.items():
        module = importlib.import_module(f"reid.methods.{method}")
        with torch.device("meta"):
            network = module.Network(model, num_ids=5, backbone="resnet10_w16", weights=None).eval()
            assert network.embed(torch.empty(2, 3, *size)).shape == (2, network.embedding_dim), label
