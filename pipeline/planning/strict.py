"""Files that people write, read strictly: every problem is one line with its path, what is allowed, the nearest match.

Nothing is ignored or converted on the way: an unknown key, text where a number belongs, a key given twice are problems,
and all problems of a file are told at once.
"""

import copy
import dataclasses
import difflib
import functools
import json
import math
import re
import types
import typing
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from reid.config import Range, TrialConfig, flatten, to_dict

T = TypeVar("T")
_PASSWORD = re.compile(r"://\S*@")
_SECRET = re.compile(r"(?i)(\w*(?:_key|token|secret|password)[\"']?\s*[=:]\s*)[\"']?[^\s\"',;&]+[\"']?")
_LONGEST = 80


class ParamsError(ValueError):
    """What is wrong in a file that a person wrote. `problems`: one line each, passwords taken out."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(redact(" ".join(problem.split())) for problem in dict.fromkeys(problems))
        super().__init__("\n".join(self.problems))


class Section(BaseModel):
    """A section of a file: frozen, no unknown keys, no conversions, no infinite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _distinct(values: tuple[T, ...]) -> tuple[T, ...]:
    if not values:
        raise ValueError("nothing is listed; give at least one")
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{value!r} is given twice")
    return values


# A text in an annotation's metadata is what a message says is allowed.
Name = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}\z"),
    "1 to 64 letters, digits, dots, hyphens or underscores",
]
Distinct = Annotated[tuple[T, ...], AfterValidator(_distinct)]


def redact(text: str) -> str:
    """The text without passwords: `scheme://***@host`, `API_KEY=***`."""
    return _SECRET.sub(r"\1***", _PASSWORD.sub("://***@", text))


def nearest(word: str, known: Iterable[str], *, prefix: str = "", cutoff: float = 0.6) -> str:
    """`; did you mean X?` for the closest known word, capitals or not; empty when none is close."""
    folded = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=cutoff)
    return f"; did you mean {prefix}{folded[close[0]]}?" if close else ""


def unknown(word: str, known: Iterable[str]) -> str:
    """What to say of a word that is none of the known ones."""
    names = sorted(known)
    return f"is {_shown(word)}; allowed: {', '.join(names)}{nearest(word, names)}"


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML 1.2 file, the YAML that DVC reads.

    Raises:
        ParamsError: no such file, bad YAML (with its line), a key given twice, or no mapping.
    """
    try:
        tree = copy.deepcopy(_parsed(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ParamsError([f"{path}: no such file; run this from the folder that has it"]) from None
    except UnicodeDecodeError as error:
        raise ParamsError([f"{path}: not UTF-8 text (byte {error.start})"]) from None
    except YAMLError as error:
        raise ParamsError([_yaml_problem(path.name, error)]) from None
    if not isinstance(tree, dict):
        found = "nothing" if tree is None else "no keys"
        raise ParamsError([f"{path.name}: expected a mapping (key: value), found {found}"])
    return tree


@functools.lru_cache(maxsize=64)
def _parsed(text: str) -> Any:
    """What a YAML text holds; kept, as a command reads the experiments three times and parsing takes long."""
    return YAML(typ="safe", pure=True).load(text)


@functools.cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    """Made once for every type: that takes longer than to use it."""
    return TypeAdapter(hint)


def validate(hint: type[T], tree: Any, *, where: str) -> T:
    """The tree as a value of a type: a `Section`, or a frozen dataclass of `reid`.

    Args:
        hint: the type.
        tree: what a YAML file held.
        where: what each problem's line starts with.

    Raises:
        ParamsError: one line for everything that does not fit.
    """
    try:
        value: T = _adapter(cast(Hashable, hint)).validate_json(json.dumps(tree, default=str))
    except ValidationError as error:
        raise ParamsError(f"{where}: {_problem(hint, detail)}" for detail in error.errors()) from None
    return value


def override(
    config: TrialConfig, changes: Mapping[str, Any], *, where: str, sections: tuple[str, ...] = ("model", "recipe")
) -> TrialConfig:
    """The configuration with some values replaced, each addressed by its dotted path: `{"recipe.schedule.epochs": 30}`.

    Args:
        config: what to start from; it is not changed.
        changes: the new values, as a YAML file holds them: lists for tuples.
        where: what each problem's line starts with.
        sections: the parts of the configuration that may be addressed.

    Raises:
        ParamsError: one line for every unknown path and every value that is not allowed there.
    """
    trees = {section: to_dict(getattr(config, section)) for section in sections}
    problems = [problem for path, value in changes.items() if (problem := _set(trees, path, value))]
    if problems:
        raise ParamsError(f"{where}: {problem}" for problem in problems)
    parts: dict[str, Any] = {}
    for section, tree in trees.items():
        kind = type(getattr(config, section))
        try:
            parts[section] = _adapter(cast(Hashable, kind)).validate_json(json.dumps(tree, default=str))
        except ValidationError as error:
            problems += [_problem(kind, detail, prefix=(section,)) for detail in error.errors()]
    if problems:
        raise ParamsError(f"{where}: {problem}" for problem in problems)
    return dataclasses.replace(config, **parts)


def _set(trees: dict[str, Any], path: str, value: Any) -> str:
    """Put a value at a dotted path; the problem with that, or nothing."""
    node: Any = trees
    reached = ""
    *parents, leaf = path.split(".")
    for part in parents:
        if not isinstance(node.get(part), dict):
            break
        node, reached = node[part], f"{reached}{part}."
    if reached != "".join(f"{part}." for part in parents) or leaf not in node:
        below = (f"{reached}{name}{'.*' if isinstance(child, dict) else ''}" for name, child in node.items())
        return f"{path} is unknown{_nearest_path(path, trees) or '; allowed: ' + ', '.join(below)}"
    if isinstance(node[leaf], dict):
        return f"{path} is a section; give its values one by one: {', '.join(f'{path}.{name}' for name in node[leaf])}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{path} is {value}; allowed: finite numbers"
    node[leaf] = value
    return ""


def _nearest_path(path: str, trees: dict[str, Any]) -> str:
    """`; did you mean X?` for a path with a similar last name anywhere, or a similar path in the same section."""
    section, _, leaf = path.rpartition(".")
    split = {known: known.rpartition(".") for known, _ in flatten(trees)}
    leaves = difflib.get_close_matches(leaf, sorted({parts[2] for parts in split.values()}), cutoff=0.7)
    beside = difflib.get_close_matches(
        path, [known for known, parts in split.items() if parts[0] == section], cutoff=0.8
    )
    likely = [known for known, parts in split.items() if parts[2] in leaves or known in beside]
    return nearest(path, likely, cutoff=0)


def _yaml_problem(name: str, error: YAMLError) -> str:
    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:
        return f"{name}: {str(error).splitlines()[0]}"
    duplicate = re.match(r'found duplicate key "(.*?)"', str(error.problem))
    said = f"the key {duplicate[1]} is given twice" if duplicate else f"{error.problem}"
    return f"{name}, line {error.problem_mark.line + 1}: {said}"


def _problem(hint: Any, detail: Any, prefix: tuple[str, ...] = ()) -> str:
    """One of pydantic's findings in our words."""
    known, inner = _resolve(hint, detail["loc"])
    path = _dotted((*prefix, *known))
    if detail["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        siblings = _fields(_resolve(hint, detail["loc"][:-1])[1])
        close = nearest(str(known[-1]), siblings, prefix=_dotted((*prefix, *known[:-1], "")))
        return f"{path} is unknown{close or '; allowed: ' + ', '.join(siblings)}"
    if detail["type"].startswith("union_tag"):
        kind, options = detail["input"].get("kind"), [_fields(option)["kind"] for option in _options(inner)]
        choices = [choice for option in options for choice in _choices(option)]
        return f"{path}.kind " + (unknown(kind, choices) if kind else f"is missing; allowed: {', '.join(choices)}")
    if detail["type"] == "missing":
        return f"{path} is missing; allowed: {_described(inner)}"
    if detail["type"] == "value_error":
        return f"{path}: {detail['ctx']['error']}".removeprefix(": ")
    return f"{path} is {_shown(detail['input'])}; allowed: {_described(inner)}{_hint(detail['input'], inner)}"


def _resolve(hint: Any, loc: Iterable[str | int]) -> tuple[list[str | int], Any]:
    """The part of a location that is a path of ours, and the annotation there; pydantic adds names of union members."""
    known: list[str | int] = []
    for part in loc:
        if tagged := [option for option in _options(hint) if part in _choices(_fields(option).get("kind"))]:
            hint = tagged[0]  # pydantic names the kind of section that it takes this for
            continue
        options = [_step(option, part) for option in _options(hint)]
        inner = next((option for option in options if option is not None), None)
        if inner is None and not any(_fields(option) for option in _options(hint)):
            break
        known.append(part)
        hint = inner
    return known, hint


def _options(hint: Any) -> list[Any]:
    """The members of a union; a single annotation as its only member."""
    inner = hint
    while typing.get_origin(inner) is Annotated:
        inner = typing.get_args(inner)[0]
    if typing.get_origin(inner) in (typing.Union, types.UnionType):
        members = [option for option in typing.get_args(inner) if option is not type(None)]
        return [option for member in members for option in _options(member)]
    return [hint]


def _bare(hint: Any) -> Any:
    """The annotation without its metadata."""
    return _bare(typing.get_args(hint)[0]) if typing.get_origin(hint) is Annotated else hint


def _fields(hint: Any) -> dict[str, Any]:
    """Names and annotations of a section's keys; empty for anything else."""
    kind = _bare(hint)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        names: Iterable[str] = kind.model_fields
    elif dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
    else:
        return {}
    hints = typing.get_type_hints(kind, include_extras=True)
    return {name: hints[name] for name in names}


def _step(hint: Any, part: str | int) -> Any:
    """The annotation one key or index further in; None where there is none."""
    kind = _bare(hint)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is dict:
        return arguments[1]
    if origin is tuple and isinstance(part, int):
        return arguments[0] if arguments[-1] is Ellipsis else arguments[min(part, len(arguments) - 1)]
    return _fields(kind).get(str(part))


def _dotted(parts: Iterable[str | int]) -> str:
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _shown(value: Any) -> str:
    if isinstance(value, str):
        text = f"the text {value!r}"
    elif isinstance(value, dict):
        text = "a section"
    else:
        text = json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _hint(value: Any, hint: Any) -> str:
    """Advice on a wrong value: the choice it resembles, or the quotes that made a number text."""
    if not isinstance(value, str):
        return ""
    choices = [str(choice) for option in _options(hint) for choice in _choices(option)]
    if choices:
        return nearest(value, choices)
    numeric = any(_bare(option) in (int, float) for option in _options(hint))
    return "; take the quotes off" if numeric and re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", value.lower()) else ""


def _choices(hint: Any) -> tuple[Any, ...]:
    kind = _bare(hint)
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


def _described(hint: Any) -> str:
    """What an annotation allows, for people."""
    words = [_one(option) for option in _options(hint)]
    union = _bare(hint)
    optional = typing.get_origin(union) in (typing.Union, types.UnionType) and type(None) in typing.get_args(union)
    return " or ".join([*words, *(["null"] if optional else [])])


def _one(hint: Any) -> str:
    kind, origin = _bare(hint), typing.get_origin(_bare(hint))
    extras = typing.get_args(hint)[1:] if typing.get_origin(hint) is Annotated else ()
    if origin is Literal:
        return ", ".join(map(str, typing.get_args(kind)))
    if origin is tuple:
        return _listed(typing.get_args(kind))
    if fields := _fields(kind):
        return f"a section with {', '.join(fields)}"
    if words := [extra for extra in extras if isinstance(extra, str)]:
        return words[0]
    limits = "".join(f", {extra}" for extra in extras if isinstance(extra, Range))
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", dict: "a section"}
    return names.get(origin or kind, "any value") + limits


def _listed(items: tuple[Any, ...]) -> str:
    if items[-1] is Ellipsis:
        return f"a list, each {_described(items[0])}"
    return f"a list of {len(items)}, each {_described(items[0])}"
