"""Whole objects under a URL, by fsspec: each write replaces one object at once, and none is ever seen in part.

What the network or the server fails to do is tried again for a minute; then it is an OSError that names the URL and
the remedy. Keys and endpoint are the environment's business, AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL_S3 and their like.
"""

import errno
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pipeline.planning.strict import redact

PATIENCE_SECONDS = 60.0
_FINAL = (FileNotFoundError, FileExistsError, PermissionError, ValueError, TypeError)  # the same again would fail again
_NO_KEYS = ("NoCredentialsError", "PartialCredentialsError")  # botocore's, which is not always installed
_PAUSE_SECONDS = 2.0

Result = TypeVar("Result")


@dataclass(frozen=True)
class Version:
    """A state of an object: `token` differs when its content does; its bytes; when it was written, by the server."""

    token: str
    bytes: int
    modified: float


class Objects:
    """The objects whose names start with a URL.

    Args:
        url: `s3://bucket/prefix`, another one of fsspec's, or a folder.
        patience: seconds for which a failure of the network or the server is tried again.
    """

    def __init__(self, url: str, *, patience: float = PATIENCE_SECONDS) -> None:
        self.url, self.patience = url.rstrip("/"), patience

    def put(self, name: str, content: bytes) -> str:
        """Write an object; the token of what was written, or nothing where the server does not say."""
        return _token_of(self._try(name, lambda: self._files.pipe_file(self._path(name), content)))

    def create(self, name: str, content: bytes) -> bool:
        """Write an object that must not exist; False if it does. Of several who try, one succeeds."""
        try:
            self._try(name, lambda: self._files.pipe_file(self._path(name), content, mode="create"))
        except FileExistsError:
            return self.get(name) == content  # an answer that was lost on its way made us ask twice
        return True

    def get(self, name: str) -> bytes:
        """The content of an object.

        Raises:
            FileNotFoundError: there is none.
        """
        content: bytes = self._try(name, lambda: self._files.cat_file(self._path(name)))
        return content

    def put_file(self, name: str, path: Path) -> None:
        """Write an object from a file of any size."""
        self._try(name, lambda: self._files.put_file(str(path), self._path(name)))

    def get_file(self, name: str, path: Path) -> None:
        """Replace a file by the content of an object of any size; until all of it is there, the old one stays.

        Raises:
            FileNotFoundError: there is no such object.
        """
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        try:
            self._try(name, lambda: self._files.get_file(self._path(name), str(temporary)))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def list(self, folder: str = "") -> dict[str, Version]:
        """The objects below a folder, by their names relative to it; empty if there are none."""
        start = self._path(folder) if folder else self._root
        try:
            found = self._try(folder, lambda: self._files.find(start, detail=True))
        except FileNotFoundError:  # what a server says of a bucket that is not there; to write to it says so
            return {}
        return {path.removeprefix(f"{start}/"): _version(info) for path, info in found.items() if path != start}

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; those that are not there are no error."""
        for name in names:
            try:
                self._try(name, lambda name=name: self._files.rm_file(self._path(name)))  # type: ignore[misc]
            except FileNotFoundError:
                continue

    def move(self, old: str, new: str) -> None:
        """Give an object another name, on the server."""
        self._try(old, lambda: self._files.cp_file(self._path(old), self._path(new)))
        self.delete([old])

    def file_system(self) -> tuple[Any, str]:
        """As Apache Arrow, and with it Ray, writes there: its file system, and the folder in it."""
        from pyarrow.fs import FSSpecHandler, PyFileSystem

        return PyFileSystem(FSSpecHandler(self._files)), self._root

    @cached_property
    def _files(self) -> Any:
        """The file system.

        Raises:
            ValueError: the library that speaks to such a server is not installed.
        """
        import fsspec

        # None of what was listed is remembered: others write there, too.
        options = {"auto_mkdir": True} if "://" not in self.url else {"use_listings_cache": False}
        try:
            return fsspec.core.url_to_fs(self.url, **options)[0]
        except ImportError as error:
            raise ValueError(
                f"{self.url}: {error}; for s3:// that is the extra `cluster`: pip install 'reid-pipeline[cluster]'"
            ) from error

    @cached_property
    def _root(self) -> str:
        return str(self._files._strip_protocol(self.url)).rstrip("/")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _try(self, name: str, call: Callable[[], Result]) -> Result:
        """Call until it succeeds, fails for good, or patience is at its end.

        Raises:
            FileNotFoundError, FileExistsError: what they say.
            OSError: anything else that went wrong, with the URL and the remedy.
        """
        deadline = time.monotonic() + self.patience
        while True:
            try:
                return call()
            except (FileNotFoundError, FileExistsError):
                raise
            except Exception as error:  # each file system raises its own
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise  # of this machine's disk
                final = isinstance(error, _FINAL) or type(error).__name__ in _NO_KEYS
                if final or time.monotonic() > deadline:
                    raise _failure(f"{self.url}/{name}".rstrip("/"), error, final=final) from error
            time.sleep(_PAUSE_SECONDS)


def _failure(place: str, error: Exception, *, final: bool) -> OSError:
    said = redact(" ".join(str(error).split())) or type(error).__name__
    if final:
        return OSError(
            errno.EACCES, f"{said}; see the keys (AWS_ACCESS_KEY_ID and its like) and what they may do", place
        )
    return OSError(
        errno.EIO, f"{said}; see whether the server answers and the network and AWS_ENDPOINT_URL_S3 are right", place
    )


def _version(info: dict[str, Any]) -> Version:
    modified = next((info[name] for name in ("LastModified", "mtime", "updated", "created") if name in info), 0.0)
    if isinstance(modified, str):
        modified = datetime.fromisoformat(modified)
    seconds = modified.timestamp() if isinstance(modified, datetime) else float(modified)
    size = int(info["size"])
    return Version(token=_token_of(info) or f"{size} at {seconds}", bytes=size, modified=seconds)


def _token_of(info: object) -> str:
    """The tag that a server gives to a content; empty if it gives none."""
    tags = [info[name] for name in ("ETag", "etag") if name in info] if isinstance(info, dict) else []
    return str(tags[0]).strip('"') if tags else ""
