"""Looking something up by its name, with an error that helps when the name is wrong."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

Option = TypeVar("Option")


def choose(kind: str, name: str, options: Mapping[str, Option]) -> Option:
    """The option called `name`.

    Raises:
        ValueError: there is none; the message lists the known names and the one most like `name`.
    """
    check_name(kind, name, options)
    return options[name]


def check_name(kind: str, name: str, allowed: Iterable[str]) -> None:
    """Raise the error of `choose` unless `name` is one of the allowed names."""
    known = sorted(allowed)
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown {kind} {name!r}, allowed: {', '.join(known)}{hint}")
