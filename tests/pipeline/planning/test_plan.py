"""From experiments to trials: every cell is there, shared ones once, and a wrong row is told before anything runs."""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.exports.export import outline
from pipeline.planning import experiments, keys, plan
from pipeline.planning.experiments import Experiment, Row
from pipeline.planning.keys import config_from_spec
from pipeline.planning.params import Params, Profile, load
from pipeline.planning.plan import Plan, expand, make_trial, resolve
from pipeline.planning.search import propose
from pipeline.planning.searches import Pruning, Search, Space
from pipeline.planning.shares import Share
from pipeline.planning.strict import ParamsError
from reid import methods
from reid.config import Settings, TrialConfig, flatten, to_dict

ROOT = Path(__file__).parents[3]
PARAMS = load(ROOT / "params.yaml").model_copy(
    update={
        "profile": "demo",
        "datasets": ("synthetic",),
        "experiments": ("bdb_table1", "bdb_table2", "bdb_block_height"),
        "seeds": (0, 1, 2),
        "profiles": {
            "demo": Profile(
                overrides={"recipe.backbone": "resnet18", "recipe.schedule.epochs": 3}, methods={}, datasets={}
            )
        },
    }
)
DATA = {name: {"test": f"{name} test", "val": f"{name} val"} for name in ("synthetic", "market1501")}
NAMES = tuple(experiments.names())


def with_params(**changes: Any) -> Params:
    return PARAMS.model_copy(update=changes)


def table(*rows: dict[str, Any], name: str = "t", search: Search | None = None) -> Experiment:
    listed = tuple(Row(**{"label": f"row {index}", **row}) for index, row in enumerate(rows))
    return Experiment(name=name, title="T", metrics=("mAP",), rows=listed, search=search)


def expanded(*rows: dict[str, Any], **changes: Any) -> Plan:
    return expand(with_params(**changes), [table(*rows)], DATA)


def config(row: dict[str, Any], **changes: Any) -> TrialConfig:
    """The configuration of one row, seen through the plan."""
    return next(iter(expanded(row, **changes).trials.values())).config


HEIGHT = Search(space={"model.rh": Space(low=0.1, high=0.9, step=0.1)}, trials=8, seed=5)
BDB = {"method": "bdb"}


# --- the configuration of a row --------------------------------------------------------------------------------------


def test_a_row_is_the_recipe_then_the_profile_then_its_own_overrides() -> None:
    """Oracle: flattened dictionaries laid over one another."""
    own = {"recipe.schedule.epochs": 9, "recipe.augment.cutout": 0.5, "model.rh": 0.4}
    found = dict(flatten(to_dict(config({**BDB, "variant": "authors_code", "overrides": own}))))
    expected = {
        **{f"recipe.{path}": value for path, value in flatten(to_dict(methods.recipe("bdb")))},
        **{f"model.{path}": value for path, value in flatten(to_dict(methods.variants("bdb")["authors_code"]))},
        **PARAMS.profiles["demo"].overrides,
        **own,
        "recipe.protocol.rule": "cross_camera",  # the data set's
        "recipe.protocol.ranks": (1, 5, 10),
        "method": "bdb",
        "evaluate_on": "test",
        "seed": 0,
    }
    assert {path: list(v) if isinstance(v, tuple) else v for path, v in found.items()} == {
        path: list(v) if isinstance(v, tuple) else v for path, v in expected.items()
    }


def test_a_data_set_says_how_it_is_scored_unless_the_row_does() -> None:
    own = {"recipe.protocol.rule": "query_gallery", "recipe.protocol.ranks": [1, 20]}
    params = PARAMS.model_copy(update={"datasets": ("sop",), "seeds": (0,)})
    data = {"sop": {"val": "v", "test": "t"}}
    found = expand(params, [table(BDB, {**BDB, "label": "Own", "overrides": own})], data)
    protocols = [trial.config.recipe.protocol for trial in found.trials.values()]
    assert [(item.rule, item.ranks) for item in protocols] == [
        ("leave_one_out", (1, 10, 100, 1000)),
        ("query_gallery", (1, 20)),
    ]


def test_rows_that_differ_in_protocol_alone_share_their_training() -> None:
    again = {"recipe.protocol.rerank": True}
    found = expanded(BDB, {**BDB, "label": "re-ranked", "overrides": again}, seeds=(0, 1))
    trained = [trial for trial in found.trials.values() if trial.source is None]
    rescored = [trial for trial in found.trials.values() if trial.source is not None]
    assert [trial.source for trial in rescored] == trained
    for trial in rescored:
        assert trial.config.recipe.protocol.rerank
        assert trial.epochs == 0
        assert trial.spec["source"] == trial.source.key  # type: ignore[union-attr]
        assert config_from_spec(trial.spec) == trial.config
    assert len({trial.setting for trial in rescored}) == 1
    own = dict(flatten(to_dict(rescored[0].config)))
    other = dict(flatten(to_dict(trained[0].config)))
    assert {path for path in own if own[path] != other[path]} == {"recipe.protocol.rerank"}


def test_a_profile_s_protocol_is_the_one_that_trials_are_trained_under() -> None:
    profile = Profile(overrides={"recipe.protocol.ap": "cut50"}, methods={}, datasets={})
    found = expanded(BDB, profiles={"demo": profile})
    assert {(trial.source, trial.config.recipe.protocol.ap) for trial in found.trials.values()} == {(None, "cut50")}


def test_a_transfer_scores_what_another_table_trains_on_the_data_sets_that_it_has_not_seen() -> None:
    across = table(BDB, name="across").model_copy(update={"transfer": True})
    params = with_params(datasets=("synthetic", "inshop"), seeds=(0,))
    data = {**DATA, "inshop": {"test": "inshop test", "val": "inshop val"}}
    found = expand(params, [table(BDB), across], data)
    (_, (plain,)), (_, (row,)) = found.experiments
    assert list(row.trials) == ["inshop->synthetic", "synthetic->inshop"]
    there = row.trials["synthetic->inshop"][0]
    assert there.source == plain.trials["synthetic"][0]
    assert (there.config.recipe.protocol.rule, there.config.recipe.protocol.ranks[:2]) == ("query_gallery", (1, 10))  # type: ignore[index]
    assert there.spec["scored_on"] == {"dataset": "inshop", "data_digest": "inshop test"}
    assert there.spec["data_digest"] == "synthetic test"
    assert len(found.trials) == 4
    assert list(found.trials).index(there.source.key) < list(found.trials).index(there.key)
    names = {name: {**digests, "test": f"other {name}"} for name, digests in data.items()}
    assert set(expand(params, [across], names).trials).isdisjoint(found.trials)
    content = outline(params, found, {}, {})
    assert content["transfers"]["synthetic->inshop"] == "In-Shop: trained on Embedded set"


def test_a_transfer_with_one_data_set_says_what_it_lacks() -> None:
    across = table(BDB).model_copy(update={"transfer": True, "note": "Known."})
    content = outline(PARAMS, expand(PARAMS, [across], DATA), {}, {})
    assert content["experiments"][0]["rows"][0]["keys"] == {}
    assert content["experiments"][0]["note"] == (
        "Known. To score a network on data it has not seen, list two data sets or more."
    )


def test_a_row_by_another_embedding_trains_nothing_of_its_own() -> None:
    found = expanded(BDB, {**BDB, "label": "drop branch", "embedding": "drop"})
    (_, (whole, branch)), *_ = found.experiments
    assert whole.trials == branch.trials
    assert outline(PARAMS, found, {}, {})["experiments"][0]["rows"][1]["embedding"] == "drop"
    with pytest.raises(ParamsError, match=r"t: rows\[0\].embedding is the text 'dorp'; allowed: .*did you mean drop"):
        expanded({**BDB, "embedding": "dorp"})


def test_trials_of_rows_score_the_test_split_and_searches_the_held_out_identities() -> None:
    found = expand(PARAMS, [table(BDB, {**BDB, "winner": True}, search=HEIGHT)], DATA)
    assert {trial.config.evaluate_on for trial in found.trials.values()} == {"test"}
    assert {trial.spec["data_digest"] for trial in found.trials.values()} == {"synthetic test"}
    (search,) = found.searches
    trial = search.trial(3, {"model.rh": 0.4})
    assert (trial.config.evaluate_on, trial.config.seed, trial.spec["data_digest"]) == ("val", 5, "synthetic val")
    assert trial.config.model == methods.config("bdb", rh=0.4)
    winners = search.winner_trials({"model.rh": 0.4})
    assert [(item.config.evaluate_on, item.config.seed) for item in winners] == [("test", 0), ("test", 1), ("test", 2)]
    assert {item.spec["data_digest"] for item in winners} == {"synthetic test"}


# --- expansion -------------------------------------------------------------------------------------------------------

ROWS = st.lists(
    st.fixed_dictionaries(
        {"method": st.sampled_from(["bdb", "baseline"])},
        optional={"overrides": st.dictionaries(st.just("recipe.augment.cutout"), st.sampled_from([0.0, 0.5]))},
    ),
    min_size=1,
    max_size=4,
)


@given(
    tables=st.lists(ROWS, min_size=1, max_size=3),
    datasets=st.permutations(["synthetic", "market1501"]).flatmap(lambda names: st.sampled_from([names, names[:1]])),
    seeds=st.lists(st.integers(0, 50), min_size=1, max_size=3, unique=True),
)
@settings(max_examples=25, deadline=None)
def test_a_plan_is_all_cells_and_its_trials_are_their_distinct_ones(
    tables: list[list[dict[str, Any]]], datasets: list[str], seeds: list[int]
) -> None:
    """Oracle: the product of rows, data sets and seeds, told apart by what was asked for instead of by hashes."""
    named = [table(*rows, name=f"t{index}") for index, rows in enumerate(tables)]
    found = expand(with_params(datasets=tuple(datasets), seeds=tuple(seeds)), named, DATA)
    asked = [
        (row["method"], row.get("overrides", {}).get("recipe.augment.cutout", 0.0), dataset, seed)
        for rows in tables
        for row, dataset, seed in itertools.product(rows, datasets, seeds)
    ]
    assert found.num_cells == len(asked)
    got = [(t.config.method, t.config.recipe.augment.cutout, t.dataset, t.config.seed) for t in found.trials.values()]
    assert sorted(got) == sorted(set(asked))
    assert len({trial.name for trial in found.trials.values()}) == len(got)
    in_cells = {
        trial.key for _, rows in found.experiments for row in rows for cell in row.trials.values() for trial in cell
    }
    assert in_cells == set(found.trials)


def test_the_first_seed_of_every_cell_comes_first() -> None:
    """So that a sweep that is cut short leaves a whole table."""
    found = expanded(BDB, {"method": "baseline"}, datasets=("synthetic", "market1501"))
    assert [trial.config.seed for trial in found.trials.values()] == [0] * 4 + [1] * 4 + [2] * 4


def test_a_seed_a_row_or_a_data_set_more_leaves_the_other_trials_as_they_are() -> None:
    before = set(expanded(BDB).trials)
    assert before < set(expanded(BDB, seeds=(0, 1, 2, 3)).trials)
    assert before < set(expanded(BDB, {"method": "baseline"}).trials)
    assert before < set(expanded(BDB, datasets=("synthetic", "market1501")).trials)
    sweep = PARAMS.sweep.model_copy(update={"resources": Share(cpus=8, gpus=0.5, processes=1), "store": "elsewhere"})
    assert before == set(expanded(BDB, sweep=sweep).trials)


def test_the_seeds_of_a_cell_share_its_setting() -> None:
    found = expanded(BDB, {"method": "baseline"})
    assert len({trial.setting for trial in found.trials.values()}) == 2
    assert len(found.trials) == 6


def test_rows_that_say_the_same_in_other_words_are_one_setting() -> None:
    """A variant, an override to the same value, and a whole number for a fraction."""
    found = expanded(
        {**BDB, "variant": "authors_code"}, {**BDB, "overrides": {"model.rh": 0.33, "recipe.schedule.peak_lr": 0.001}}
    )
    assert len(found.trials) == 3
    assert {trial.name.rsplit("-", 2)[0] for trial in found.trials.values()} == {"bdb-authors_code-synthetic"}
    assert [*found.shared().values()] == [["t: row 0", "t: row 1"]]


def test_the_selected_tables_share_their_rows() -> None:
    """Tables 1 and 2 and the search: 4 + 5 + 1 rows, of which Baseline+Triplet, BDB, BDB+Cut and the default recur."""
    found = expand(PARAMS, experiments.load(PARAMS.experiments), DATA)
    assert found.num_cells == 10 * 3
    assert len(found.trials) == 6 * 3
    assert sorted(len(rows) for rows in found.shared().values()) == [2, 2, 3]
    for trial in found.trials.values():
        assert keys.trial_key(trial.spec) == trial.key
        assert keys.config_from_spec(trial.spec) == trial.config
        assert trial.name.endswith(f"-{trial.key[:8]}")


def test_all_experiments_of_the_repository_resolve_under_all_profiles() -> None:
    profiles = load(ROOT / "params.yaml").profiles
    for profile in profiles:
        resolved = resolve(with_params(profile=profile, profiles=profiles), experiments.load(NAMES))
        assert set(resolved) == set(NAMES)
        ours = {name: sum(item is not None for item in found) for name, found in resolved.items()}
        assert ours == OURS


OURS = {
    f"{start}{name}": rows
    for start, found in {
        "bdb_table": {"1": 4, "2": 5, "3": 5, "4": 4, "5": 7, "7a": 1, "7b": 1, "7c": 1, "7d": 1, "8": 8, "6": 0},
        "bdb_": {"fig7a": 5, "fig7b": 10, "block_height": 2, "branches": 3},
        "bdb_fig": {"1": 2, "4": 3, "5": 1, "9": 1},
        "saadb_fig": {"4": 2, "5": 2},
        "han_fig": {"7": 1, "8": 2},
        "sonanet_fig": {"3": 1},
        "saadb_table": {"1": 1, "2": 1, "3": 1, "4": 6, "5": 6},
        "saadb_": {"test_map": 4, "text": 6},
        "sonanet_": {"stage4": 2, "text": 2},
        "sonanet_table": {"1": 0, "2": 3, "3": 3, "4": 3, "5": 9},
        "han_text": {"": 1},
        "esnet_text": {"": 0},
        "han_table": {"i": 0, "ii": 1, "iii": 1, "iv": 1, "v": 1, "vi": 6, "vii": 6, "viii": 6, "ix": 9, "x": 8},
        "esnet_table": {"i": 2, "ii": 6, "iii": 4, "iv": 4, "v": 5, "vi": 2, "vii": 2, "viii": 3, "ix": 3, "x": 4},
        "esnet_fig": {"1": 2, "3": 3, "4": 10, "5": 1, "6": 4},
        "search_": {"saadb": 4, "esnet": 4, "sona": 4, "bdb": 4},
        "": {"comparison": 9, "erasers": 7},
    }.items()
    for name, rows in found.items()
}


def test_a_trial_is_equal_to_itself_made_again() -> None:
    first, again = expanded(BDB), expanded(BDB)
    assert first.trials == again.trials
    assert len({*first.trials.values(), *again.trials.values()}) == 3


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (methods.config("bdb"), "bdb-default"),
        (methods.config("bdb", "gap"), "bdb-gap"),
        (methods.config("bdb", rh=0.77), "bdb-default-custom"),
        (methods.config("bdb", "gap", rh=0.77), "bdb-gap-custom"),
        (methods.config("han", "tricks", feature_dim=64), "han-tricks-custom"),
    ],
)
def test_a_trial_is_named_after_the_variant_it_is_or_is_nearest_to(model: Settings, name: str) -> None:
    base = config({"method": name.split("-")[0]})
    trial = make_trial(dataclasses.replace(base, model=model), "synthetic", DATA["synthetic"])
    assert trial.name == f"{name}-synthetic-s0-{trial.key[:8]}"


# --- searches --------------------------------------------------------------------------------------------------------


def searches(search: Search, **row: Any) -> tuple[plan.SearchPlan, ...]:
    return expand(PARAMS, [table({**BDB, **row, "winner": True}, search=search)], DATA).searches


def test_a_search_runs_on_every_data_set() -> None:
    found = expand(
        with_params(datasets=("synthetic", "market1501")), [table({**BDB, "winner": True}, search=HEIGHT)], DATA
    )
    assert [(item.experiment, item.dataset) for item in found.searches] == [("t", "synthetic"), ("t", "market1501")]
    assert found.num_cells == 0
    assert found.trials == {}


def test_a_point_with_a_rounding_error_is_the_row_that_says_it_exactly() -> None:
    row = expanded({**BDB, "overrides": {"model.rh": 0.3}})
    (search,) = searches(HEIGHT.model_copy(update={"sampler": "grid"}))
    assert 0.1 + 2 * 0.1 != 0.3
    third = propose(search.search, 2, seen=[], taken=[])
    assert [trial.key for trial in search.winner_trials(third)] == list(row.trials)


def test_a_search_trial_s_key_is_not_moved_by_its_number() -> None:
    (search,) = searches(HEIGHT)
    one, two = search.trial(1, {"model.rh": 0.3}), search.trial(2, {"model.rh": 0.3})
    assert one.key == two.key
    assert (one.name[:13], two.name[:13]) == ("t-1-synthetic", "t-2-synthetic")


def test_a_search_that_may_stop_trials_is_part_of_their_keys_and_its_length_is_not() -> None:
    def key(**changes: Any) -> str:
        (search,) = searches(HEIGHT.model_copy(update=changes))
        return search.trial(0, {"model.rh": 0.3}).key

    early, late = Pruning(start=0.1, factor=2), Pruning(start=0.5, factor=2)
    assert len({key(), key(pruning=early), key(pruning=late), key(pruning=early, lag=3)}) == 4
    assert key(pruning=early, trials=80, gpu_hours=3.0) == key(pruning=early)
    assert key(lag=3) == key()  # nothing is stopped, so it does not matter what a trial sees
    (search,) = searches(HEIGHT.model_copy(update={"pruning": early}))
    more = dataclasses.replace(search, search=search.search.model_copy(update={"top": 3}))
    assert more.trial(0, {"model.rh": 0.3}) == search.trial(0, {"model.rh": 0.3})
    stored = json.loads(json.dumps(search.trial(0, {"model.rh": 0.3}).spec))
    assert keys.trial_key(stored) == key(pruning=early)
    assert keys.config_from_spec(stored).model == methods.config("bdb", rh=0.3)
    assert {trial.key for trial in search.winner_trials({"model.rh": 0.3})} == set(
        expanded({**BDB, "overrides": {"model.rh": 0.3}}).trials
    )


def test_a_search_builds_on_the_winner_s_row() -> None:
    (search,) = searches(HEIGHT, variant="gap", overrides={"recipe.augment.cutout": 0.5})
    trial = search.trial(0, {"model.rh": 0.2})
    assert trial.config.model == methods.config("bdb", "gap", rh=0.2)
    assert trial.config.recipe.augment.cutout == 0.5


def test_whole_ends_of_a_fraction_s_range_become_fractions_and_those_of_a_count_do_not() -> None:
    space = {
        "model.rh": Space(low=0, high=1),
        "model.margin": Space(low=0, high=1, step=1),
        "recipe.schedule.epochs": Space(low=1, high=9, step=2),
    }
    (search,) = searches(Search(space=space, trials=2))
    margin = search.search.space["model.margin"]  # None by default, so its value does not tell
    assert [repr(value) for value in (margin.low, margin.high, margin.step)] == ["0.0", "1.0", "1.0"]
    height, epochs = search.search.space["model.rh"], search.search.space["recipe.schedule.epochs"]
    assert [repr(value) for value in (height.low, height.high, height.step)] == ["0.0", "1.0", "None"]
    assert [repr(value) for value in (epochs.low, epochs.high, epochs.step)] == ["1", "9", "2"]


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({"model.rr": Space(low=0.1, high=0.5)}, "t: search.space: model.rr is unknown"),
        ({"model.rh": Space(low=0.1, high=1.5)}, "t: search.space: model.rh is 1.5; allowed: a number, 0 to 1"),
        ({"model.rh": Space(low=-1.5, high=0.5)}, "t: search.space: model.rh is -1.5; allowed: a number, 0 to 1"),
        ({"model.drop_op": Space(choices=("none", "dropout", "droput"))}, "did you mean dropout?"),
        ({"recipe.schedule.epochs": Space(low=1.5, high=9)}, "recipe.schedule.epochs is 1.5; allowed: a whole number"),
        ({"seed": Space(low=1, high=9)}, "t: search.space: seed is unknown; allowed: model.*, recipe.*"),
        ({"model.rh[0]": Space(low=0.1, high=0.9)}, "t: search.space: model.rh[0] is unknown; did you mean model.rh?"),
        ({"recipe.image_size[2]": Space(low=1, high=9)}, "t: search.space: recipe.image_size[2] is unknown"),
        (
            {"recipe.image_size[0]": Space(low=0, high=9)},
            "recipe.image_size[0] is 0; allowed: a whole number, 1 or more",
        ),
        (
            {"model.rh": Space(low=0.1, high=0.5, when={"model.drop_opp": "dropout"})},
            "t: search.space.model.rh.when: model.drop_opp is unknown; did you mean model.drop_op?",
        ),
        (
            {"model.rh": Space(low=0.1, high=0.5, when={"model.drop_op": ("none", "dropout")})},
            "t: search.space.model.rh is never asked for: model.drop_op is 'batch_dropblock' in the row",
        ),
    ],
)
def test_a_search_may_only_ask_for_what_is_allowed(space: dict[str, Space], said: str) -> None:
    with pytest.raises(ParamsError) as caught:
        searches(Search(space=space, trials=2))
    assert said in str(caught.value)


def test_an_objective_must_be_among_what_the_data_set_is_scored_by() -> None:
    with pytest.raises(ParamsError) as caught:
        searches(HEIGHT.model_copy(update={"objective": ("mAP", "Recall@1")}))
    assert "t: search.objective is the text 'Recall@1'; allowed: Rank-1, Rank-10, Rank-5, " in str(caught.value)
    ranked = searches(HEIGHT.model_copy(update={"objective": "Recall@7"}), overrides=ANY_CAMERA)
    assert ranked[0].search.objectives == ("Recall@7",)
    assert searches(HEIGHT.model_copy(update={"objective": ("mAP", "step_seconds")}))


ANY_CAMERA = {"recipe.protocol.rule": "query_gallery", "recipe.protocol.ranks": [1, 7]}


def test_a_condition_that_the_row_fulfils_is_left_out() -> None:
    space = {
        "model.drop_pool": Space(choices=("max", "avg")),
        "model.rh": Space(low=0, high=1, when={"model.drop_op": "batch_dropblock", "model.drop_pool": "max"}),
    }
    (search,) = searches(Search(space=space, trials=2, first={"model.drop_pool": "max", "model.rh": 1}))
    assert search.search.space["model.rh"].when == {"model.drop_pool": "max"}
    assert repr(search.search.first["model.rh"]) == "1.0"
    assert search.trial(0, {"model.drop_pool": "avg"}).config.model == methods.config("bdb", drop_pool="avg")


def test_an_element_of_a_list_is_a_setting_of_its_own() -> None:
    space = {
        "recipe.image_size[1]": Space(low=32, high=64, step=32),
        "recipe.image_size[0]": Space(choices=(64, 128)),
    }
    (search,) = searches(Search(space=space, sampler="grid"))
    assert repr(search.search.space["recipe.image_size[1]"].low) == "32"
    config = search.trial(0, {"recipe.image_size[1]": 32, "recipe.image_size[0]": 64}).config
    assert config.recipe.image_size == (64, 32)
    assert search.trial(0, {"recipe.image_size[0]": 64}).config.recipe.image_size == (64, 128)
    changed = {"recipe.image_size": [64, 32]}
    assert {
        trial.key for trial in search.winner_trials({"recipe.image_size[1]": 32, "recipe.image_size[0]": 64})
    } == set(expanded({**BDB, "overrides": changed}).trials)


def test_the_best_of_a_search_are_the_trials_of_their_rows() -> None:
    rows = ({**BDB, "winner": True}, {**BDB, "winner": 2}, {**BDB, "winner": 3})
    found = expand(PARAMS, [table(*rows, search=HEIGHT.model_copy(update={"top": 3}))], DATA)
    (search,) = found.searches
    points = [{"model.rh": 0.4}, {"model.rh": 0.2}]
    winners = [{"number": number, "params": point} for number, point in enumerate(points)]
    content = outline(PARAMS, found, {("t", "synthetic"): {"trials": [], "winners": winners, "over": True}}, {})
    keys_of_rows = [row["keys"]["synthetic"] for row in content["experiments"][0]["rows"]]
    assert keys_of_rows == [*([trial.key for trial in search.winner_trials(point)] for point in points), []]


# --- what is wrong is told before anything runs ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"method": "bdbb"}, "t: rows[0].method is the text 'bdbb'; allowed: "),
        ({"method": "bdbb"}, "; did you mean bdb?"),
        ({**BDB, "variant": "drop"}, "t: rows[0].variant is the text 'drop'; allowed: "),
        ({**BDB, "overrides": {"model.hr": 1}}, "t: rows[0].overrides: model.hr is unknown; did you mean model.r"),
        (
            {**BDB, "overrides": {"recipe.schedule.epochs": 0}},
            "t: rows[0].overrides: recipe.schedule.epochs is 0; allowed: a whole number, 1 or more",
        ),
        (
            {"method": "baseline", "overrides": {"model.rh": 0.3}},
            "t: rows[0].overrides: model.rh is unknown; allowed: ",
        ),
        (
            {**BDB, "overrides": {"recipe.backbone": "resnet51"}},
            "t: rows[0].overrides: recipe.backbone is the text 'resnet51'",
        ),
    ],
)
def test_a_wrong_row_is_answered_with_one_line(row: dict[str, Any], said: str) -> None:
    with pytest.raises(ParamsError) as caught:
        expanded(row)
    (line,) = caught.value.problems
    assert said in line


def test_all_wrong_rows_are_told_at_once() -> None:
    with pytest.raises(ParamsError) as caught:
        expanded({"method": "nope"}, BDB, {**BDB, "variant": "nope"})
    assert [line.split(" is ")[0] for line in caught.value.problems] == ["t: rows[0].method", "t: rows[2].variant"]


# --- results/plan.json -----------------------------------------------------------------------------------------------


def test_statistics_declare_no_trials_and_hold_the_counts_of_the_data() -> None:
    found = expand(PARAMS, experiments.load(("bdb_table6",)), DATA)
    assert not found.trials
    manifest = pd.DataFrame({"split": ["train", "train", "query"], "identity": [1, 2, 3], "camera": [1, 1, 2]})
    (table,) = outline(PARAMS, found, {}, {"synthetic": manifest})["experiments"]
    assert (table["kind"], table["rows"], table["counts"]["synthetic"]["training_images"]) == ("statistics", [], 2)


def test_the_plan_as_json() -> None:
    params = with_params(tracking=PARAMS.tracking.model_copy(update={"ui": "http://me:secret@host:5000"}))
    found = expand(params, experiments.load(PARAMS.experiments), DATA)
    tried = {"number": 0, "params": {"model.rh": 0.4}, "values": [0.5], "status": "done", "key": "k" * 20}
    winner = {"number": 0, "params": {"model.rh": 0.4}}
    outcome = {"trials": [tried], "winners": [winner], "over": True}
    content = outline(params, found, {("bdb_block_height", "synthetic"): outcome}, {})
    assert json.loads(json.dumps(content)) == content  # plain JSON types
    assert content["datasets"] == {"synthetic": "Embedded set"}
    assert (content["profile"], content["seeds"]) == ("demo", [0, 1, 2])
    assert content["mlflow_ui"] == "http://***@host:5000"
    table1, table2, search = content["experiments"]
    assert [item["name"] for item in (table1, table2, search)] == list(PARAMS.experiments)
    assert [item["kind"] for item in (table1, table2, search)] == ["table", "table", "search"]
    assert table1["rows"][0] == {
        "label": "IDE",
        "method": None,
        "variant": "default",
        "overrides": {},
        "published_method": "IDE",
        "embedding": "",
        "series": "",
        "winner": 0,
        "settings": {},
        "keys": {},
    }
    both = next(row for row in table2["rows"] if row["label"] == "Both Branches (BDB)")
    bdb = next(row for row in table1["rows"] if row["label"] == "BDB")
    assert both["keys"] == bdb["keys"]
    assert both["settings"] == bdb["settings"]
    assert [found.trials[key].config.seed for key in both["keys"]["synthetic"]] == [0, 1, 2]
    assert table2["search"] is None
    assert search["published"] is None
    space = found.searches[0].search.space["model.rh"]
    assert search["search"]["synthetic"] == {
        "objectives": ["mAP"],
        "space": {"model.rh": space.model_dump(include={"low", "high", "step"})},
        "trials": [tried],
        "winners": [winner],
        "over": True,
    }
    assert [row["winner"] for row in search["rows"]] == [0, 1]
    assert table2["reference"] == "Global Branch (Baseline)"
    won = search["rows"][1]
    assert won["keys"]["synthetic"] == [trial.key for trial in found.searches[0].winner_trials({"model.rh": 0.4})]
    assert won["published_method"] is None


def test_a_search_without_a_winner_leaves_its_row_empty() -> None:
    found = expand(PARAMS, experiments.load(("bdb_block_height",)), DATA)
    nothing = {"trials": [], "winners": [], "over": False}
    content = outline(PARAMS, found, {("bdb_block_height", "synthetic"): nothing}, {})
    row = content["experiments"][0]["rows"][1]
    assert (row["keys"], row["settings"]) == ({"synthetic": []}, {})
