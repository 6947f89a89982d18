"""Keys depend on what moves a result and on nothing else."""

import ast
import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.planning import keys
from pipeline.planning.keys import canonical_json, code_digest, config_from_spec, setting_key, trial_key, trial_spec
from pipeline.planning.strict import ParamsError
from reid import methods
from reid.config import Protocol, Recipe, Sampler, Settings, TrialConfig, to_dict

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


def config(**changes: Any) -> TrialConfig:
    base = TrialConfig(method="bdb", model=methods.variants("bdb")["default"], recipe=methods.recipe("bdb"))
    return dataclasses.replace(base, **changes)


def spec(trial: TrialConfig | None = None, **changes: Any) -> dict[str, Any]:
    parts = {"dataset": "synthetic", "data_digest": "d" * 64, "code_digest": "c" * 64}
    return trial_spec(trial or config(), **{**parts, **changes})


def shuffled(value: Any) -> Any:
    """The same value with the keys of all its dictionaries in the opposite order."""
    if isinstance(value, dict):
        return {name: shuffled(value[name]) for name in reversed(value)}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


@given(JSON)
def test_canonical_json_forgets_order_and_nothing_else(value: Any) -> None:
    text = canonical_json(value)
    assert text == canonical_json(shuffled(value))
    assert json.loads(text) == value
    assert text.isascii()
    assert canonical_json({"a": value, "b": 1}) == '{"a":' + text + ',"b":1}'  # no spaces, keys sorted


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [-float("inf")]])
def test_canonical_json_refuses_what_json_has_not(value: Any) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(value)


def test_a_key_is_twenty_digits_of_the_hash_of_what_the_trial_depends_on() -> None:
    """Written out once more, since a change of this rule would orphan every stored result."""
    trial = config(seed=2)
    content = {
        "config": dataclasses.asdict(trial),
        "dataset": "synthetic",
        "data_digest": "d" * 64,
        "code_digest": "c" * 64,
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert trial_key(spec(trial)) == hashlib.sha256(text.encode()).hexdigest()[:20]


def test_a_key_is_the_same_in_another_process() -> None:
    code = (
        "from tests.pipeline.planning.test_keys import spec\n"
        "from pipeline.planning.keys import trial_key, setting_key\n"
        "print(trial_key(spec()), setting_key(spec()))"
    )
    root = Path(__file__).parents[3]
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root, env={"PYTHONHASHSEED": "7"}
    )
    assert printed.stdout.split() == [trial_key(spec()), setting_key(spec())]


CHANGES: dict[str, Callable[[], dict[str, Any]]] = {
    "seed": lambda: spec(config(seed=1)),
    "evaluate_on": lambda: spec(config(evaluate_on="val")),
    "model": lambda: spec(config(model=methods.config("bdb", rh=0.4))),
    "recipe": lambda: spec(config(recipe=Recipe(sampler=Sampler(images=8)))),
    "protocol": lambda: spec(config(recipe=Recipe(protocol=Protocol(flip=True)))),
    "dataset": lambda: spec(dataset="market1501"),
    "data": lambda: spec(data_digest="e" * 64),
    "code": lambda: spec(code_digest="e" * 64),
}


def test_everything_that_moves_a_result_moves_the_key() -> None:
    found = {name: trial_key(change()) for name, change in CHANGES.items()} | {"none": trial_key(spec())}
    assert len(set(found.values())) == len(found)


def test_the_seeds_of_a_cell_share_their_setting_and_nothing_else_does() -> None:
    found = {name: setting_key(change()) for name, change in CHANGES.items()}
    assert found.pop("seed") == setting_key(spec())
    assert len({*found.values(), setting_key(spec())}) == len(found) + 1


@pytest.mark.parametrize("method", methods.names())
def test_a_configuration_comes_back_from_its_spec(method: str) -> None:
    for model in methods.variants(method).values():
        trial = TrialConfig(method=method, model=model, recipe=methods.recipe(method), evaluate_on="val", seed=3)
        stored = json.loads(json.dumps(spec(trial)))
        assert config_from_spec(stored) == trial
        assert stored == spec(trial)  # the record is what was hashed, to the type


def test_a_record_of_other_code_is_named() -> None:
    stored = spec()
    stored["config"]["recipe"]["warmup"] = 5
    with pytest.raises(ParamsError, match="the record of a bdb trial: warmup is unknown"):
        config_from_spec(stored)


# --- the code digest -------------------------------------------------------------------------------------------------

PACKAGE = {
    "__init__.py": "",
    "train.py": "from reid import methods, schedules\nimport reid.data.dataset\n",
    "schedules.py": "RATE = 1\n",
    "losses.py": "def loss(a, b):\n    return a - b\n",
    "unused.py": "X = 1\n",
    "data/__init__.py": "",
    "data/dataset.py": "from ..config import Y\n",
    "data/synthetic.py": "Z = 1\n",
    "config.py": "Y = 1\n",
    "parts/__init__.py": "",
    "parts/heads.py": "def head():\n    from reid import losses\n    return losses\n",
    "parts/drop.py": "from . import pool\n",
    "parts/pool.py": "P = 1\n",
    "methods/__init__.py": "import importlib\nimport reid.methods.base\n",
    "methods/base.py": "from reid.losses import loss\n",
    "methods/one.py": "from reid.methods.base import loss\nfrom reid.parts import heads\n",
    "methods/two.py": "from .base import loss\nfrom ..parts.drop import pool\n",
}
BOTH, ONE, TWO, NEITHER = {"one", "two"}, {"one"}, {"two"}, set[str]()
READERS = {
    "__init__.py": BOTH,
    "train.py": BOTH,
    "schedules.py": BOTH,
    "losses.py": BOTH,
    "unused.py": NEITHER,
    "data/__init__.py": BOTH,
    "data/dataset.py": BOTH,
    "data/synthetic.py": NEITHER,
    "config.py": BOTH,
    "parts/__init__.py": BOTH,
    "parts/heads.py": ONE,
    "parts/drop.py": TWO,
    "parts/pool.py": TWO,
    "methods/__init__.py": BOTH,
    "methods/base.py": BOTH,
    "methods/one.py": ONE,
    "methods/two.py": TWO,
}


def package(folder: Path, **edits: str) -> Path:
    for name, text in {**PACKAGE, **edits}.items():
        path = folder / "reid" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "reid"


@pytest.mark.parametrize("name", PACKAGE)
def test_an_edit_reaches_the_methods_that_import_the_file(tmp_path: Path, name: str) -> None:
    before = package(tmp_path / "before")
    after = package(tmp_path / "after", **{name: PACKAGE[name] + "NEW = 1\n"})
    changed = {method for method in BOTH if code_digest(method, package=before) != code_digest(method, package=after)}
    assert changed == READERS[name]


def test_where_the_package_lies_does_not_matter(tmp_path: Path) -> None:
    assert code_digest("one", package=package(tmp_path / "a")) == code_digest("one", package=package(tmp_path / "b"))


FREE = {
    "comment": "def loss(a, b):  # why\n    return a - b\n",
    "layout": "def loss(\n    a,\n    b,\n):\n\n    return (a\n        - b)\n",
    "docstring": '"""Module."""\ndef loss(a, b):\n    """Function."""\n    return a - b\n',
}
COSTS = {
    "value": "def loss(a, b):\n    return a + b\n",
    "name": "def loss(a, c):\n    return a - c\n",
    "default": "def loss(a, b=0):\n    return a - b\n",
    "text that is no docstring": 'def loss(a, b):\n    x = "Function."\n    return a - b\n',
    "a line after the docstring": 'def loss(a, b):\n    """Function."""\n    a\n    return a - b\n',
    "decorator": "@f\ndef loss(a, b):\n    return a - b\n",
    "async": "async def loss(a, b):\n    return a - b\n",
}


@pytest.mark.parametrize("text", FREE.values(), ids=FREE)
def test_comments_docstrings_and_layout_are_free(tmp_path: Path, text: str) -> None:
    before, after = package(tmp_path / "before"), package(tmp_path / "after", **{"losses.py": text})
    assert code_digest("one", package=before) == code_digest("one", package=after)


@pytest.mark.parametrize("text", COSTS.values(), ids=COSTS)
def test_code_is_not(tmp_path: Path, text: str) -> None:
    before, after = package(tmp_path / "before"), package(tmp_path / "after", **{"losses.py": text})
    assert code_digest("one", package=before) != code_digest("one", package=after)


def test_constants_of_different_types_differ(tmp_path: Path) -> None:
    texts = [
        "X = 1",
        "X = 1.0",
        "X = True",
        "X = '1'",
        "X = b'1'",
        "X = None",
        "X = 1j",
        "X: int = 1",
        "X = -1",
        "X = ()",
    ]
    digests = {
        code_digest("one", package=package(tmp_path / str(index), **{"losses.py": text}))
        for index, text in enumerate(texts)
    }
    assert len(digests) == len(texts)


def test_an_unknown_method_has_no_digest(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no module reid\.methods\.three"):
        code_digest("three", package=package(tmp_path))


@pytest.fixture(scope="module")
def pristine() -> dict[str, str]:
    return {method: code_digest(method) for method in methods.names()}


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("methods/bdb.py", {"bdb"}),
        ("methods/baseline.py", {"baseline"}),
        ("losses.py", {"baseline", "bdb"}),
        ("train.py", {"baseline", "bdb"}),
        ("config.py", {"baseline", "bdb"}),
        ("evaluation/__init__.py", {"baseline", "bdb"}),
        ("parts/drop.py", {"bdb"}),
        ("data/synthetic.py", set[str]()),
        ("data/pedestrian.py", set[str]()),
        ("data/readers.py", set[str]()),  # a new data set re-trains nothing
        ("data/market1501.py", set[str]()),
    ],
)
def test_the_real_package(tmp_path: Path, pristine: dict[str, str], file: str, expected: set[str]) -> None:
    edited = tmp_path / "reid"
    shutil.copytree(keys.PACKAGE, edited, ignore=shutil.ignore_patterns("__pycache__"))
    with (edited / file).open("a") as source:
        source.write("\n_NEW = 1\n")
    changed = {method for method in ("baseline", "bdb") if code_digest(method, package=edited) != pristine[method]}
    assert changed == expected


def test_the_digest_covers_all_that_a_trial_imports() -> None:
    """Oracle: Python itself. What a fresh process holds after the imports of a trial is what the digest reads."""
    code = (
        "import sys, reid.train, reid.methods.bdb; "
        "print(*sorted(name for name in sys.modules if name == 'reid' or name.startswith('reid.')))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=keys.PACKAGE.parent
    )
    assert keys._closure(keys.PACKAGE, ["reid.train", "reid.methods.bdb"]) >= set(printed.stdout.split())


def test_a_file_is_parsed_once_in_a_process(monkeypatch: pytest.MonkeyPatch, pristine: dict[str, str]) -> None:
    def parse(*_: object, **__: object) -> None:
        raise AssertionError("parsed again")

    monkeypatch.setattr(ast, "parse", parse)
    assert {method: code_digest(method) for method in methods.names()} == pristine


def test_a_config_and_its_dictionary_agree() -> None:
    """`to_dict` is what is hashed, so it must keep every field of every section."""

    def sections(settings: Settings) -> int:
        values = [getattr(settings, item.name) for item in dataclasses.fields(settings)]
        return sum(sections(value) if isinstance(value, Settings) else 1 for value in values)

    def leaves(tree: dict[str, Any]) -> int:
        return sum(leaves(value) if isinstance(value, dict) else 1 for value in tree.values())

    assert leaves(to_dict(config())) == sections(config())


def test_a_file_of_weights_counts_by_its_content(tmp_path: Path) -> None:
    def key(content: bytes | None, name: str = "weights.safetensors") -> str:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        keys._file_digest.cache_clear()
        return trial_key(spec(config(recipe=dataclasses.replace(Recipe(), weights=str(path)))))

    assert key(b"one") == key(b"one")
    assert key(b"one") != key(b"two")
    with pytest.raises(FileNotFoundError, match=r"recipe\.weights: .*missing.* is not there"):
        key(None, "missing")
