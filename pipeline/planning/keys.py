"""What a trial is called: hashes of everything its result depends on, and of nothing else.

The configuration and the data are hashed as canonical JSON, the code as the parsed syntax of the files that the trial
can reach by imports: comments, docstrings and formatting are free, and one method's edit leaves the others' results.
"""

import ast
import functools
import hashlib
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.planning.strict import validate
from reid import methods
from reid.config import Recipe, TrialConfig, to_dict
from reid.visualize.picture import Picture

PACKAGE = Path(inspect.getfile(TrialConfig)).parent
_DIGITS = 20


def canonical_json(value: Any) -> str:
    """One text per value: sorted keys, no spaces, ASCII, tuples as lists.

    Raises:
        ValueError: the value holds an infinite number or NaN.
        TypeError: the value holds something that is no JSON type.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def trial_spec(config: TrialConfig, *, dataset: str, data_digest: str, code_digest: str) -> dict[str, Any]:
    """Everything a trial's result depends on, as plain JSON types: the content of its `spec.json`.

    Raises:
        FileNotFoundError: `recipe.weights` names a file that is not there.
    """
    spec = {"config": to_dict(config), "dataset": dataset, "data_digest": data_digest, "code_digest": code_digest}
    if config.recipe.weights not in (None, "imagenet"):
        spec["weights_digest"] = _file_digest(Path(str(config.recipe.weights)))
    plain: dict[str, Any] = json.loads(canonical_json(spec))
    return plain


def scoring_spec(
    trained: dict[str, Any], config: TrialConfig, *, source: str, target: dict[str, str]
) -> dict[str, Any]:
    """As `trial_spec`, of a trial that scores the network of another one.

    Args:
        trained: the specification of the trial that trains.
        config: its configuration, with the protocol to score by.
        source: its key.
        target: `dataset` and `data_digest` of what is scored.
    """
    spec = trained | {"config": to_dict(config), "source": source, "scored_on": target}
    plain: dict[str, Any] = json.loads(canonical_json(spec))
    return plain


def picture_spec(
    scored: dict[str, Any], picture: Picture, *, source: str | None, code_digest: str, target: dict[str, str]
) -> dict[str, Any]:
    """As `trial_spec`, of a trial that draws what the network of another one does.

    Args:
        scored: the specification of a trial whose configuration it has, with the protocol to rank by.
        picture: what to draw.
        source: the key of the trial that trains the network; None where none has to be trained.
        code_digest: of the code that draws.
        target: `dataset` and `data_digest` of what is drawn.
    """
    known = {name: value for name, value in scored.items() if name != "source"}
    own = {"scored_on": target, "pictures": to_dict(picture) | {"code_digest": code_digest}}
    plain: dict[str, Any] = json.loads(canonical_json(known | own | ({"source": source} if source else {})))
    return plain


def picture_from_spec(spec: dict[str, Any]) -> Picture:
    """The picture that `picture_spec` was given."""
    fields = {name: value for name, value in spec["pictures"].items() if name != "code_digest"}
    return Picture(**fields)


def config_from_spec(spec: dict[str, Any]) -> TrialConfig:
    """The configuration that `trial_spec` was given.

    Raises:
        ParamsError: the record does not fit the code: it was written by another version of it.
    """
    tree = spec["config"]
    model = type(methods.config(tree["method"]))
    where = f"the record of a {tree['method']} trial"
    return TrialConfig(
        method=tree["method"],
        model=validate(model, tree["model"], where=where),
        recipe=validate(Recipe, tree["recipe"], where=where),
        evaluate_on=tree["evaluate_on"],
        seed=tree["seed"],
    )


def trial_key(spec: dict[str, Any]) -> str:
    """The name of a trial, 20 hexadecimal digits: the hash of its `trial_spec`."""
    return _hash(canonical_json(spec))[:_DIGITS]


def setting_key(spec: dict[str, Any]) -> str:
    """The hash of a `trial_spec` without its seed: the trials of one table cell share it.

    The key of what a scoring is built on has the seed in it too, and says nothing that the rest does not.
    """
    unseeded = {name: value for name, value in spec["config"].items() if name != "seed"}
    content = {name: value for name, value in spec.items() if name != "source"}
    return _hash(canonical_json(content | {"config": unseeded}))[:_DIGITS]


def code_digest(method: str, *, package: Path = PACKAGE) -> str:
    """Hash of the code that a trial of `method` runs: what `train.py` and the method's own file import, transitively.

    Imports are read from the source and not executed, so finding methods by name adds no other method's file.

    Raises:
        FileNotFoundError: the package has no such method.
    """
    return _code(["train", f"methods.{method}"], package)


def drawing_digest(*, package: Path = PACKAGE) -> str:
    """Hash of the code that draws pictures of networks, the methods' own files left out."""
    return _code(["visualize.drawing"], package)


def whole_digest() -> str:
    """Hash of all the code of `reid` and of `pipeline`: where it is equal, a worker does what the driver expects."""
    modules = {}
    for package in (PACKAGE, Path(__file__).parents[1]):
        for path in package.rglob("*.py"):
            parts = path.relative_to(package.parent).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            modules[name] = _module(package, name)[0]
    return _hash(canonical_json(modules))


@functools.cache
def _file_digest(path: Path) -> str:
    """Hash of a file of weights: another file under the same name is another trial."""
    if not path.is_file():
        raise FileNotFoundError(f"recipe.weights: {path.absolute()} is not there; allowed: null, imagenet or a file")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _code(starts: list[str], package: Path) -> str:
    """Hash of what importing these modules of the package executes."""
    names = [f"{package.name}.{start}" for start in starts]
    for name in names:
        if _file(package, name) is None:
            raise FileNotFoundError(f"there is no module {name} in {package}")
    modules = {name: _module(package, name)[0] for name in _closure(package, names)}
    return _hash(canonical_json(modules))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _closure(package: Path, starts: list[str]) -> set[str]:
    """The modules of the package that importing `starts` would execute."""
    found: set[str] = set()
    queue = list(starts)
    while queue:
        name = queue.pop()
        if name in found or _file(package, name) is None:
            continue
        found.add(name)
        parent = name.rpartition(".")[0]
        queue += [*_module(package, name)[1], *([parent] if parent else [])]
    return found


def _file(package: Path, name: str) -> Path | None:
    """The source file of a module of the package; None for names that are no module of it."""
    first, *parts = name.split(".")
    if first != package.name:
        return None
    base = package.joinpath(*parts)
    candidates = [base / "__init__.py", *([base.with_name(f"{base.name}.py")] if parts else [])]
    return next((path for path in candidates if path.is_file()), None)


@functools.cache
def _module(package: Path, name: str) -> tuple[str, tuple[str, ...]]:
    """Hash of a module's syntax, and the names it may import; read once in a process."""
    path = _file(package, name)
    assert path is not None
    tree = ast.parse(path.read_bytes(), filename=str(path))
    inside = name if path.name == "__init__.py" else name.rpartition(".")[0]
    imports = tuple(_imports(tree, inside))
    return _hash(canonical_json(_shape(tree))), imports


def _imports(tree: ast.Module, inside: str) -> Iterator[str]:
    """Absolute names of all that a module imports, `from a import b` both as `a` and as `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = _absolute(node, inside)
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)


def _absolute(node: ast.ImportFrom, inside: str) -> str:
    if node.level == 0:
        return node.module or ""
    above = inside.split(".")
    anchor = above[: len(above) - node.level + 1]
    return ".".join([*anchor, *([node.module] if node.module else [])])


def _shape(node: Any) -> Any:
    """A syntax tree as nested lists, without empty fields: later Pythons add some, which must not move a hash."""
    if isinstance(node, list):
        return [_shape(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {name: value for name, value in ast.iter_fields(node) if value is not None and value != []}
    if "body" in fields and isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        fields["body"] = fields["body"][1:] if _is_docstring(fields["body"][0]) else fields["body"]
    return [type(node).__name__, {name: _shape(value) for name, value in fields.items()}]


def _is_docstring(statement: ast.stmt) -> bool:
    if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
        return False
    return isinstance(statement.value.value, str)
