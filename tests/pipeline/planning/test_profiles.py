"""A profile's overrides: in which order they are laid over a method, and what is said of a wrong one."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from pipeline.planning.experiments import Experiment, Row
from pipeline.planning.params import ParamsError, Profile, load
from pipeline.planning.plan import resolve
from reid import methods
from reid.config import TrialConfig
from reid.parts.backbone import BACKBONES
from tests.conftest import ROOT
from tests.pipeline.planning.test_params import problems

PARAMS = load(ROOT / "params.yaml")
BDB = {"method": "bdb"}


def at_scale(
    overrides: dict[str, Any], own: dict[str, dict[str, Any]], datasets: dict[str, dict[str, Any]] | None = None
) -> Profile:
    return Profile(overrides=overrides, methods=own, datasets=datasets or {})


def config(row: dict[str, Any], profile: Profile, dataset: str | None = None) -> TrialConfig:
    """The configuration of one row under a profile, seen through the plan."""
    params = PARAMS.model_copy(update={"profile": "own", "profiles": {"own": profile}})
    table = Experiment(name="t", title="T", metrics=("mAP",), rows=(Row(**{"label": "row", **row}),))
    (found,) = resolve(params, [table], dataset)["t"]
    assert found is not None
    return found


# --- what comes over what --------------------------------------------------------------------------------------------


def test_a_profile_without_overrides_is_the_published_recipe() -> None:
    found = config(BDB, at_scale({}, {}))
    assert (found.recipe, found.model) == (methods.recipe("bdb"), methods.config("bdb"))


def test_a_profile_may_not_touch_what_is_compared() -> None:
    with pytest.raises(ParamsError, match=r"profiles\.own\.overrides: model\.rh is unknown; allowed: recipe\.\*"):
        config(BDB, at_scale({"model.rh": 0.5}, {}))


def test_a_method_s_overrides_come_after_the_shared_ones_and_before_the_row_s() -> None:
    shared = {"recipe.schedule.epochs": 3, "recipe.schedule.peak_lr": 0.1, "recipe.sampler.images": 2}
    own = {"recipe.schedule.peak_lr": 0.2, "recipe.sampler.images": 3, "model.rh": 0.5, "model.global_dim": 64}
    scale = at_scale(shared, {"bdb": own})
    found = config({**BDB, "overrides": {"recipe.sampler.images": 5, "model.rh": 0.25}}, scale)
    assert (found.recipe.schedule.epochs, found.recipe.schedule.peak_lr, found.recipe.sampler.images) == (3, 0.2, 5)
    assert found.model == methods.config("bdb", rh=0.25, global_dim=64)
    other = config({"method": "baseline"}, scale)
    assert (other.recipe.schedule.peak_lr, other.recipe.sampler.images) == (0.1, 2)
    assert other.model == methods.config("baseline")


def test_a_data_set_s_overrides_come_after_the_method_s_and_before_the_row_s() -> None:
    own = {"recipe.schedule.epochs": 3, "recipe.image_size": [128, 64], "model.rh": 0.5}
    square = {"veri776": {"recipe.image_size": [256, 256], "recipe.schedule.name": "S4"}}
    scale = at_scale({}, {"bdb": own}, square)
    there = config({**BDB, "overrides": {"recipe.schedule.name": "S1"}}, scale, "veri776")
    assert (there.recipe.image_size, there.recipe.schedule.name, there.recipe.schedule.epochs) == ((256, 256), "S1", 3)
    assert there.model == methods.config("bdb", rh=0.5)
    assert config(BDB, scale, "market1501") == config(BDB, scale) != there


@pytest.mark.parametrize("variant", methods.variants("han"))
def test_a_method_s_model_stays_where_a_variant_departs_from_the_default(variant: str) -> None:
    """Four stripes are for the networks with six; a network of one stripe keeps its one, whatever the profile says."""
    own = {"model.stripes": 4, "model.order": ["cat"], "model.feature_dim": 64}
    model, default = methods.config("han", variant), methods.config("han")
    found = config({"method": "han", "variant": variant}, at_scale({}, {"han": own})).model
    values = {"stripes": 4, "order": ("cat",), "feature_dim": 64}
    taken = {name: value for name, value in values.items() if getattr(model, name) == getattr(default, name)}
    assert found == methods.config("han", variant, **taken)
    assert (vars(found)["stripes"] == 4) == (vars(model)["stripes"] == 6)


def test_a_row_may_still_set_what_a_variant_kept() -> None:
    scale = at_scale({}, {"han": {"model.stripes": 4}})
    row = {"method": "han", "variant": "baseline", "overrides": {"model.stripes": 2}}
    assert vars(config(row, scale).model)["stripes"] == 2


def test_a_method_s_recipe_is_replaced_for_all_its_variants() -> None:
    scale = at_scale({}, {"han": {"recipe.schedule.peak_lr": 0.5, "recipe.augment.random_erasing": 0.25}})
    for variant in ("default", "baseline"):
        recipe = config({"method": "han", "variant": variant}, scale).recipe
        assert (recipe.schedule.peak_lr, recipe.augment.random_erasing) == (0.5, 0.25)


def test_a_mistake_in_a_method_s_overrides_is_told_once() -> None:
    with pytest.raises(ParamsError) as caught:
        config(BDB, at_scale({}, {"bdb": {"model.rr": 0.5}}))
    (line,) = caught.value.problems
    assert line.startswith("profiles.own.methods.bdb: model.rr is unknown; did you mean model.")


# --- what is wrong is told when params.yaml is loaded ----------------------------------------------------------------

WRONG: dict[str, tuple[str, str, str]] = {
    "unknown path in a profile": (
        "      recipe.schedule.epochs: 30",
        "      recipe.schedule.epoch: 30",
        "params.yaml: profiles.demo.overrides: recipe.schedule.epoch is unknown; did you mean recipe.schedule.epochs?",
    ),
    "a profile's value as text": (
        "      recipe.schedule.time_scale: 0.1",
        '      recipe.schedule.peak_lr: "1e-3"',
        "params.yaml: profiles.demo.overrides: recipe.schedule.peak_lr is the text '1e-3'; allowed: a number, 0 or "
        "more; take the quotes off",
    ),
    "negative epochs": (
        "      recipe.schedule.epochs: 30",
        "      recipe.schedule.epochs: -30",
        "params.yaml: profiles.demo.overrides: recipe.schedule.epochs is -30; allowed: a whole number, 1 or more",
    ),
    "a choice that is none": (
        "      recipe.weights: null",
        "      recipe.optimiser.name: adamw",
        "params.yaml: profiles.demo.overrides: recipe.optimiser.name is the text 'adamw'; allowed: adam, sgd; did you "
        "mean adam?",
    ),
    "a profile that is not selected": (
        "  paper:\n    overrides: {}",
        "  paper:\n    overrides: {recipe.schedul.epochs: 3}",
        "params.yaml: profiles.paper.overrides: recipe.schedul.epochs is unknown; did you mean recipe.schedule.epochs?",
    ),
    "a profile that addresses a model": (
        "      recipe.weights: null",
        "      model.rh: 0.3",
        "params.yaml: profiles.demo.overrides: model.rh is unknown; allowed: recipe.*",
    ),
    "a profile that replaces a section": (
        "  paper:\n    overrides: {}",
        "  paper:\n    overrides: {recipe.sampler: {images: 4}}",
        "params.yaml: profiles.paper.overrides: recipe.sampler is a section; give its values one by one: "
        "recipe.sampler.identities, recipe.sampler.images, recipe.sampler.epoch",
    ),
    "an unknown backbone": (
        "      recipe.weights: null",
        "      recipe.backbone: resnet51",
        "params.yaml: profiles.demo.overrides: recipe.backbone is the text 'resnet51'; allowed: "
        f"{', '.join(sorted(BACKBONES))}; did you mean resnet50?",
    ),
    "an unknown method": (
        "      bdb:\n",
        "      bdbb:\n",
        "params.yaml: profiles.demo.methods.bdbb is unknown; did you mean profiles.demo.methods.bdb?",
    ),
    "an unknown method with no neighbour": (
        "      bdb:\n",
        "      zzz:\n",
        f"params.yaml: profiles.demo.methods.zzz is unknown; allowed: {', '.join(methods.names())}",
    ),
    "an unknown path for a method": (
        "        model.rh: 0.5",
        "        model.rr: 0.5",
        "params.yaml: profiles.demo.methods.bdb: model.rr is unknown; did you mean model.rw?",
    ),
    "another method's path": (
        "        model.rh: 0.5",
        "        model.alpha: 0.5",
        "params.yaml: profiles.demo.methods.bdb: model.alpha is unknown; allowed: "
        + ", ".join(f"model.{item.name}" for item in dataclasses.fields(methods.config("bdb"))),
    ),
    "a path of neither recipe nor model": (
        "        model.rh: 0.5",
        "        seed: 3",
        "params.yaml: profiles.demo.methods.bdb: seed is unknown; allowed: model.*, recipe.*",
    ),
    "a method's value out of range": (
        "        model.rh: 0.5",
        "        model.rh: 1.5",
        "params.yaml: profiles.demo.methods.bdb: model.rh is 1.5; allowed: a number, 0 to 1",
    ),
    "a method's value as text": (
        "        model.rh: 0.5",
        '        model.rh: "0.5"',
        "params.yaml: profiles.demo.methods.bdb: model.rh is the text '0.5'; allowed: a number, 0 to 1; take the "
        "quotes off",
    ),
    "a method's choice that is none": (
        "        model.rh: 0.5",
        "        model.drop_op: batch_dropblok",
        "params.yaml: profiles.demo.methods.bdb: model.drop_op is the text 'batch_dropblok'; allowed: none, dropout, "
        "spatial_dropout, batch_dropout, dropblock_single, batch_dropblock, dropblock, dropblock_plus; did you mean "
        "batch_dropblock?",
    ),
    "a method's recipe": (
        "        recipe.schedule.peak_lr: 0.01",
        "        recipe.schedule.epochs: 0",
        "params.yaml: profiles.demo.methods.bdb: recipe.schedule.epochs is 0; allowed: a whole number, 1 or more",
    ),
    "a method's unknown backbone": (
        "        recipe.schedule.peak_lr: 0.01",
        "        recipe.backbone: resnet5",
        "params.yaml: profiles.demo.methods.bdb: recipe.backbone is the text 'resnet5'; allowed: "
        f"{', '.join(sorted(BACKBONES))}; did you mean resnet50?",
    ),
    "a method that is no section": (
        "    methods: {}",
        "    methods: {bdb: 3}",
        "params.yaml: profiles.paper.methods.bdb is 3; allowed: a section",
    ),
    "methods that are no section": (
        "    methods: {}",
        "    methods: [bdb]",
        'params.yaml: profiles.paper.methods is ["bdb"]; allowed: a section',
    ),
    "no methods": (
        "    methods: {}\n",
        "",
        "params.yaml: profiles.paper.methods is missing; allowed: a section",
    ),
    "a method of a profile that is not selected": (
        "    methods: {}",
        "    methods: {sona: {model.sona_after_stage: [3, 2]}}",
        "params.yaml: profiles.paper.methods.sona: model: Config.sona_after_stage is (3, 2): name each stage once, in "
        "rising order",
    ),
    "a value that one variant cannot have": (
        "        model.rh: 0.5",
        "        model.global_branch: false",
        "params.yaml: profiles.demo.methods.bdb: model: bdb has no branch left: set global_branch or drop_branch to "
        "true (variant global_only)",
    ),
    "an unknown data set": (
        "    datasets: {}",
        "    datasets: {veri: {recipe.image_size: [256, 256]}}",
        "params.yaml: profiles.demo.datasets.veri is unknown; did you mean profiles.demo.datasets.veri776?",
    ),
    "a data set's model": (
        "    datasets: {}",
        "    datasets: {veri776: {model.rh: 0.5}}",
        "params.yaml: profiles.demo.datasets.veri776: model.rh is unknown; allowed: recipe.*",
    ),
    "a key of a profile": (
        "  paper:\n    overrides: {}",
        "  paper:\n    override: {}",
        "params.yaml: profiles.paper.override is unknown; did you mean profiles.paper.overrides?",
    ),
}


@pytest.mark.parametrize(("old", "new", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_profile_is_answered_with_one_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    told = problems(tmp_path, (old, new))
    assert said in told, told
    renamed = any("is unknown" in line for line in told) and any("is missing" in line for line in told)
    assert len(told) == 1 + renamed  # a misspelt key is also a missing one


def test_the_profiles_of_a_file_do_not_hide_one_another_s_problems(tmp_path: Path) -> None:
    told = problems(tmp_path, ("model.rh: 0.5", "model.rr: 0.5"), ("    methods: {}", "    methods: {bbd: {}}"))
    assert [line.split(" is unknown")[0] for line in told] == [
        "params.yaml: profiles.demo.methods.bdb: model.rr",
        "params.yaml: profiles.paper.methods.bbd",
    ]
