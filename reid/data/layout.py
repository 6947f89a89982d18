"""What the readers share: where a data set lies, which images it has, and what its lists say.

No path of a record leads out of the data set's folder.
"""

import difflib
import errno
import functools
import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})

_SHOWN = 5
_HOMES_SHOWN = 4
_NO_ENTRIES = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}


class AbsentError(FileNotFoundError):
    """There is no such data set under a root. One that is there but lacks files is another `FileNotFoundError`."""


@dataclass(frozen=True)
class Form:
    """One way a data set lies on disk: the places under the root, and what is there; folders end in a slash."""

    homes: Sequence[str]
    inside: Sequence[str]


@dataclass(frozen=True)
class Home:
    """The folder of a data set under `root`, to which the paths of records are relative, and what was found in it.

    The folder may itself be a link to where the data are, but nothing inside it may lead out of it.
    """

    root: Path
    folder: Path
    inside: Sequence[str] = ()

    def images(self, below: str) -> dict[str, str]:
        """The images directly in a folder: name to record path, sorted, hidden files (macOS's `._` copies) left out.

        Raises:
            ValueError: there is none, a name is not UTF-8, or a link leads out of the data set.
        """
        folder = self.folder / below
        entries = _entries(folder)
        names = sorted(name for name in entries if name[0] != "." and Path(name).suffix.lower() in IMAGE_SUFFIXES)
        if not names:
            suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
            raise ValueError(f"{folder} holds no image ({suffixes}); unpack the data set again")
        undecoded = [repr(name) for name in names if not _is_text(name)]
        if undecoded:
            raise ValueError(f"{folder}: {len(undecoded)} names are not UTF-8, rename them: {shorten(undecoded)}")
        self._check_links(folder, [name for name in names if entries[name]])
        return dict(zip(names, self._record_paths(below, names), strict=True))

    def listed(self, entries: Iterable[tuple[str, str]], *, below: str, source: Path) -> list[str]:
        """Record paths of the files that a list names, in its order.

        Args:
            entries: where in the list (for messages), and the path there, which is relative to `below`.
            below: folder, relative to that of the data set.
            source: the list.

        Raises:
            FileNotFoundError: files are not there; the message has their number and the first five.
            ValueError: a path or a link leads out of the data set, or a path has a NUL.
        """
        folder = self.folder / below
        names_in: dict[str, list[str]] = defaultdict(list)
        names = []
        for where, name in entries:
            if "\0" in name:
                raise ValueError(f"{where}: {name!r} is no path; write the file's name again")
            if posixpath.isabs(name) or ".." in name.split("/"):
                raise ValueError(f"{where}: {name!r} leaves {folder}; write the path relative to that folder")
            names.append(posixpath.normpath(name))
            names_in[posixpath.dirname(names[-1])].append(names[-1])
        lacking = {name for inner, paths in names_in.items() for name in self._missing(folder, inner, paths)}
        if lacking:
            missing = [name for name in names if name in lacking]
            raise FileNotFoundError(
                f"{source} names {len(missing)} files that are not in {folder}; unpack the data set again, or mend "
                f"the list: {shorten(missing)}"
            )
        return self._record_paths(below, names)

    def _missing(self, folder: Path, inner: str, paths: Iterable[str]) -> list[str]:
        """Those of the paths, all in one folder, that are not there; to list it once is fast on network disks too."""
        entries = _entries(folder / inner)
        names = {posixpath.basename(path): path for path in paths}
        self._check_links(folder / inner, [name for name in names if entries.get(name)])
        return [path for name, path in names.items() if name not in entries]

    def _check_links(self, folder: Path, links: Sequence[str]) -> None:
        inside = os.path.realpath(self.folder)
        for path in (folder, *(folder / name for name in links)):
            target = os.path.realpath(path)
            if not Path(target).is_relative_to(inside):
                raise ValueError(
                    f"{path} is a link to {target}, outside the data set; put the file itself there, or make "
                    f"{self.folder} as a whole the link"
                )

    def _record_paths(self, below: str, names: Iterable[str]) -> list[str]:
        prefix = (self.folder / below).relative_to(self.root).as_posix()
        return list(names) if prefix == "." else [f"{prefix}/{name}" for name in names]


def find(root: Path, forms: Iterable[Form]) -> Home | None:
    """The first place under `root` that holds all of a form, by the order of the forms and then of their homes."""
    places = ((root / home, form.inside) for form in forms for home in form.homes)
    return next((Home(root, folder, inside) for folder, inside in places if not _lacking(folder, inside)), None)


def locate(root: Path, forms: Sequence[Form], *, name: str) -> Home:
    """As `find`, for a data set that has to be there.

    Raises:
        AbsentError: it is not; the message is that of `not_found`.
    """
    if home := find(root, forms):
        return home
    raise not_found(root, forms, name=name)


def not_found(root: Path, forms: Sequence[Form], *, name: str) -> AbsentError:
    """Why there is no such data set: the path, the variable that sets it, the tree expected, the closest folder found.

    Of many forms, the first two are shown.
    """
    return AbsentError(
        f"{name} is not under {root}\n"
        f"Set REID_DATASETS to the folder that holds it. Expected there:\n"
        + "  or\n".join(map(_tree, forms[:2]))
        + f"Closest folder found: {_closest(root, forms)}"
    )


def _tree(form: Form) -> str:
    homes = [f"{home}/" for home in form.homes if home != "."]
    others = [*homes[1:_HOMES_SHOWN], *(["the folder itself"] * ("." in form.homes))]
    alternatives = f"  (or {', or '.join(others)})" if others else ""
    return f"  {homes[0]}{alternatives}\n" + "".join(f"    {part}\n" for part in form.inside)


def read_rows(path: Path, columns: Sequence[str], *, headed: int = 0) -> list[tuple[str, list[str]]]:
    """The rows of a list whose fields are parted by blanks: where each is (for messages), and its fields.

    Args:
        path: the list.
        columns: what the fields are.
        headed: lines before the first row; the last of them holds the names of the columns.

    Raises:
        ValueError: the list is empty, is not UTF-8, lacks its header, or a row has another number of fields.
    """
    lines = read_text(path).splitlines()
    if headed and (len(lines) < headed or lines[headed - 1].split() != list(columns)):
        raise ValueError(f"{path}, line {headed}: the header {' '.join(columns)!r} is expected there")
    numbered = [(f"{path}, line {number}", line.split()) for number, line in enumerate(lines, 1) if number > headed]
    rows = [(where, fields) for where, fields in numbered if fields]
    if not rows:
        raise ValueError(f"{path} lists nothing; unpack the data set again")
    for where, fields in rows:
        if len(fields) != len(columns):
            raise ValueError(f"{where}: {len(fields)} fields, {len(columns)} are expected: {' '.join(columns)}")
    return rows


def read_text(path: Path) -> str:
    """A text file.

    Raises:
        ValueError: it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error


def whole(text: str, where: str, *, least: int = 0) -> int:
    """A whole number from `least` on; int64, as the manifest's columns are.

    Raises:
        ValueError: the text is no such number; the message begins with `where`.
    """
    if re.fullmatch(r"-?[0-9]{1,18}", text) and int(text) >= least:
        return int(text)
    raise ValueError(f"{where} is {text!r}, allowed: whole numbers from {least}")


def refuse_names(folder: Path, names: Sequence[str], form: str) -> None:
    """Refuse image names that do not parse, if there are any."""
    if names:
        raise ValueError(f"{folder}: {len(names)} image names {form} (mend or remove them): {shorten(names)}")


def shorten(items: Sequence[str]) -> str:
    """The first five, and how many more."""
    return ", ".join(items[:_SHOWN]) + (f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else "")


def _entries(folder: Path) -> dict[str, bool]:
    """What is in a folder, by name, and whether it is a link; nothing if there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.is_symlink() for entry in entries}
    except OSError as error:
        if error.errno in _NO_ENTRIES:
            return {}
        raise


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _lacking(folder: Path, inside: Iterable[str]) -> list[str]:
    def is_there(part: str) -> bool:
        return (folder / part).is_dir() if part.endswith("/") else (folder / part).is_file()

    return [part.rstrip("/") for part in inside if not is_there(part)]


def _closest(root: Path, forms: Sequence[Form]) -> str:
    """The folder near `root` that holds most of what was looked for, or else has the most similar name."""
    candidates = [folder for folder in (root, *root.absolute().parents) if folder.is_dir()][:1]
    candidates += _subfolders(candidates[0])
    if root.is_dir():
        candidates += [below for folder in candidates[1:] for below in _subfolders(folder)]
    homes = [Path(home).name for form in forms for home in form.homes if home != "."]
    wanted = homes if root.is_dir() else [root.name]

    def present(folder: Path, form: Form) -> int:
        return len(form.inside) - len(_lacking(folder, form.inside))

    def score(folder: Path) -> tuple[int, float]:
        likeness = max(difflib.SequenceMatcher(None, folder.name.lower(), name.lower()).ratio() for name in wanted)
        return max(present(folder, form) for form in forms), likeness

    best = max(candidates, key=score)
    lacking = _lacking(best, max(forms, key=functools.partial(present, best)).inside)
    return f"{best} " + (f"(lacks {', '.join(lacking)})" if lacking else "(complete, but not under an accepted name)")


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(Path(entry) for entry in os.scandir(folder) if entry.is_dir())
    except PermissionError:
        return []
