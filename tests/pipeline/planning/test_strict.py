"""Values replaced by dotted path, exactly or with one line about what is wrong; and passwords kept out of messages."""

from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.planning.strict import ParamsError, nearest, override, redact
from reid import methods
from reid.config import Range, Recipe, Settings, TrialConfig, flatten, to_dict

SHARED = TrialConfig(method="bdb", model=methods.variants("bdb")["default"], recipe=Recipe())

# --- secrets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:hunter2@host:5000/x", "http://***@host:5000/x"),
        ("postgresql://u:p@ss/w@rd@db/mlflow", "postgresql://***@db/mlflow"),
        ("at 'https://token@host' it failed", "at 'https://***@host' it failed"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("AWS_SECRET_ACCESS_KEY=abc123 x", "AWS_SECRET_ACCESS_KEY=*** x"),
        ("MLFLOW_TRACKING_TOKEN: abc123", "MLFLOW_TRACKING_TOKEN: ***"),
        ("https://host/?password=abc123&x=1", "https://host/?password=***&x=1"),
        ("mail me@here about http://host", "mail me@here about http://host"),
        ("the key seeds is given twice", "the key seeds is given twice"),
    ],
)
def test_passwords_are_taken_out(text: str, shown: str) -> None:
    assert redact(text) == shown


@given(
    user=st.from_regex(r"[a-z]{1,8}", fullmatch=True),
    secret=st.text(st.characters(codec="ascii", exclude_characters="\\", min_codepoint=33), min_size=6),
)
def test_no_password_survives(user: str, secret: str) -> None:
    shown = redact(f"cannot reach postgresql+psycopg2://{user}:{secret}@host:5432/db now")
    assert shown == "cannot reach postgresql+psycopg2://***@host:5432/db now"


# --- overrides -------------------------------------------------------------------------------------------------------


def leaves(settings: Settings, prefix: str) -> list[tuple[str, Any]]:
    """Dotted path and annotation of every value of a configuration."""
    found = []
    for name, hint in get_type_hints(type(settings), include_extras=True).items():
        value = getattr(settings, name)
        if isinstance(value, Settings):
            found += leaves(value, f"{prefix}{name}.")
        elif not name.startswith("__"):
            found.append((f"{prefix}{name}", hint))
    return found


LEAVES = leaves(SHARED.recipe, "recipe.") + leaves(SHARED.model, "model.")


def allowed_values(hint: Any) -> st.SearchStrategy[Any]:
    """Values that an annotation allows, as YAML holds them."""
    if get_origin(hint) is Annotated:
        kind, *extras = get_args(hint)
        limits = next(extra for extra in extras if isinstance(extra, Range))
        high = None if limits.high == float("inf") else limits.high
        if kind is int:
            return st.integers(int(limits.low), None if high is None else int(high))
        return st.floats(limits.low, high, allow_infinity=False)
    if get_origin(hint) is Literal:
        return st.sampled_from(get_args(hint))
    if get_origin(hint) is tuple:
        first, *rest = get_args(hint)
        return (
            st.lists(allowed_values(first), min_size=2, max_size=2)
            if rest != [...]
            else st.lists(allowed_values(first), max_size=4)
        )
    if type(None) in get_args(hint):
        return st.none() | allowed_values(get_args(hint)[0])
    return {bool: st.booleans(), int: st.integers(), str: st.text()}[hint]


def test_every_value_can_be_overridden() -> None:
    assert {path for path, _ in LEAVES} == {
        path for path, _ in flatten({"recipe": to_dict(SHARED.recipe), "model": to_dict(SHARED.model)})
    }


@given(data=st.data(), leaf=st.sampled_from(LEAVES))
@settings(max_examples=80, deadline=None)
def test_an_override_changes_its_value_exactly_and_nothing_else(data: st.DataObject, leaf: tuple[str, Any]) -> None:
    """Oracle: the flattened configuration with one entry replaced."""
    path, hint = leaf
    value = data.draw(allowed_values(hint))
    if path == "model.global_branch" or path == "model.drop_branch":
        value = True  # one branch must stay
    if path == "recipe.augment.crop" and value:
        value = [min(side, 128) for side in value]  # it must fit into the image
    found = dict(flatten(to_dict(override(SHARED, {path: value}, where="x"))))
    expected = dict(flatten(to_dict(SHARED))) | {path: tuple(value) if isinstance(value, list) else value}
    assert found == expected


NONSENSE = (
    st.none() | st.text() | st.integers() | st.floats() | st.lists(st.text()) | st.dictionaries(st.text(), st.none())
)


@given(changes=st.dictionaries(st.sampled_from([path for path, _ in LEAVES]), NONSENSE, min_size=1))
@settings(max_examples=60, deadline=None)
def test_an_override_takes_a_value_exactly_or_says_what_is_wrong_with_it(changes: dict[str, Any]) -> None:
    found: TrialConfig | None = None
    told: tuple[str, ...] = ()
    try:
        found = override(SHARED, changes, where="here")
    except ParamsError as error:
        told = error.problems
    if found is not None:
        after = dict(flatten(to_dict(found)))
        assert {path: after[path] for path in changes} == {
            path: tuple(value) if isinstance(value, list) else value for path, value in changes.items()
        }
    else:
        assert all(line.startswith("here: ") for line in told)
        assert any(line.startswith(f"here: {path}") for line in told for path in changes) or "no branch left" in told[0]


def test_whole_numbers_become_fractions_where_fractions_are_meant() -> None:
    """So that `peak_lr: 1` and `peak_lr: 1.0` are one trial."""
    one = override(SHARED, {"recipe.schedule.peak_lr": 1}, where="x")
    assert repr(one.recipe.schedule.peak_lr) == "1.0"


def test_the_original_is_not_touched() -> None:
    before = to_dict(SHARED)
    override(SHARED, {"recipe.schedule.epochs": 7, "model.rh": 0.9}, where="x")
    assert to_dict(SHARED) == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model.drop_pol": "max"}, ["x: model.drop_pol is unknown; did you mean model.drop_pool?"]),
        ({"rh": 0.3}, ["x: rh is unknown; did you mean model.rh?"]),
        ({"recipe.epochs": 3}, ["x: recipe.epochs is unknown; did you mean recipe.schedule.epochs?"]),
        (
            {"recipe.optimizer.name": "sgd"},
            ["x: recipe.optimizer.name is unknown; did you mean recipe.optimiser.name?"],
        ),
        ({"seed": 3}, ["x: seed is unknown; allowed: model.*, recipe.*"]),
        ({"recipe.augment.cutout": 1.5}, ["x: recipe.augment.cutout is 1.5; allowed: a number, 0 to 1"]),
        ({"recipe.protocol.flip": 1}, ["x: recipe.protocol.flip is 1; allowed: true or false"]),
        ({"recipe.schedule.peak_lr": float("inf")}, ["x: recipe.schedule.peak_lr is inf; allowed: finite numbers"]),
        ({"recipe.backbone.depth": 50}, None),
        ({"recipe.": 1}, None),
        ({"": 1}, None),
        ({".": 1}, None),
        (
            {"model.global_branch": False, "model.drop_branch": False},
            ["x: model: bdb has no branch left: set global_branch or drop_branch to true"],
        ),
        (
            {"model.rh": 2, "recipe.schedule.epochs": 0},
            [
                "x: model.rh is 2; allowed: a number, 0 to 1",
                "x: recipe.schedule.epochs is 0; allowed: a whole number, 1 or more",
            ],
        ),
        ({"model.rh": "0.3"}, ["x: model.rh is the text '0.3'; allowed: a number, 0 to 1; take the quotes off"]),
        ({"model.margin": "x"}, ["x: model.margin is the text 'x'; allowed: a number, 0 to 10 or null"]),
        (
            {"recipe.image_size": [64, 1, 2]},
            ["x: recipe.image_size is [64, 1, 2]; allowed: a list of 2, each a whole number, 1 or more"],
        ),
    ],
)
def test_a_wrong_override(changes: dict[str, Any], said: list[str] | None) -> None:
    with pytest.raises(ParamsError) as caught:
        override(SHARED, changes, where="x")
    if said is None:
        assert "is unknown; allowed: " in str(caught.value)
    else:
        assert list(caught.value.problems) == said


@pytest.mark.parametrize(
    ("word", "said"),
    [("map", "; did you mean mAP?"), ("rank1", "; did you mean Rank-1?"), ("loss", ""), ("", "")],
)
def test_the_nearest_word_is_found_whatever_its_capitals(word: str, said: str) -> None:
    assert nearest(word, ["mAP", "mINP", "Rank-1"]) == said
