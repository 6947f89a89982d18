"""A small, strict reader of MATLAB's .mat files of version 5 (save -v6 and -v7): numbers, text, cells and structs.

Annotations of some data sets are in such files, and nothing else this package needs can read them. The format is
described in "MAT-File Format" by The MathWorks. Nothing in a file is run: there are no objects or functions, sizes are
checked against what is there, and what is compressed may not grow without limit.
"""

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

_Order = Literal["<", ">"]

_HEADER_BYTES = 128
_MOST_BYTES = 1 << 28  # what one compressed variable may become; the largest that is needed has 20 MB
_MOST_NESTED = 8
_ORDERS: dict[bytes, _Order] = {b"IM": "<", b"MI": ">"}
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_ENCODINGS = {1: "ascii", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_CELL, _STRUCT, _TEXT = 1, 2, 4
_ARRAYS = range(6, 16)  # classes of numbers, from double to uint64
_COMPLEX = 0x08


class _FaultError(Exception):
    """What is wrong with the bytes."""


def read(path: Path, names: Sequence[str]) -> dict[str, Any]:
    """Variables of a .mat file.

    An array of numbers comes as an ndarray of its own shape, in the type it is stored in, which is the smallest that
    fits; text as str, a cell array as a list, and an array of structs as a list of dictionaries, both in MATLAB's order
    (down the columns).

    Args:
        path: the file.
        names: the variables to read; others are passed over.

    Raises:
        ValueError: it is not a file of version 5, is damaged, lacks a variable, or one has a type that is not read.
    """
    data = path.read_bytes()
    if b"\x89HDF\r\n\x1a\n" in (data[:8], data[512:520]):
        raise ValueError(f"{path} is a MATLAB 7.3 (HDF5) file, which is not read here; save it again with -v7")
    order = _ORDERS.get(data[126:_HEADER_BYTES])
    if order is None:
        raise ValueError(f"{path} is not a MATLAB file of version 5; save it again with -v7")
    try:
        variables = dict(_Reader(memoryview(data)[_HEADER_BYTES:], order).variables(set(names)))
    except (_FaultError, zlib.error, struct.error, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is damaged, or not of the kinds that are read here ({error}); get it again"
        ) from error
    lacking = [name for name in names if variables.get(name) is None]
    if lacking:
        raise ValueError(f"{path} has no variable {', '.join(lacking)}; it has: {', '.join(variables) or 'none'}")
    return {name: variables[name] for name in names}


def whole_numbers(value: Any) -> list[int] | None:
    """An array's numbers in MATLAB's order if it is an array of whole numbers, None if it is anything else."""
    if not isinstance(value, np.ndarray) or not np.isfinite(value).all() or (value != np.floor(value)).any():
        return None
    return [int(number) for number in value.ravel(order="F")]


@dataclass
class _Reader:
    """The elements of a part of a file, one after another: each a tag of type and size, and its bytes."""

    data: memoryview
    order: _Order
    position: int = 0
    depth: int = 0

    def variables(self, wanted: set[str]) -> Iterator[tuple[str, Any]]:
        """Name and content of every variable; None for those that are not wanted."""
        while self.position < len(self.data):
            kind, payload = self._element()
            if kind == _COMPRESSED:
                kind, payload = self._inside(memoryview(_inflate(payload)))._element()
            if kind != _MATRIX:
                raise _FaultError(f"an element of type {kind} where a variable should be")
            yield self._inside(payload)._matrix(wanted)

    def _matrix(self, wanted: set[str] | None) -> tuple[str, Any]:
        """Name and content of the array that these bytes are."""
        if not self.data and wanted is None:
            return "", np.empty((0, 0))
        flags, kind = divmod(int(self._integers()[0]) & 0xFFFF, 256)
        shape = tuple(int(size) for size in self._integers())
        name = bytes(self._element()[1]).decode("ascii")
        if wanted is not None and name not in wanted:
            return name, None
        if min(shape, default=0) < 0 or flags & _COMPLEX or self.depth > _MOST_NESTED:
            raise _FaultError(f"{name or 'an array'} is complex, too deep or of a negative size")
        return name, self._content(kind, shape)

    def _content(self, kind: int, shape: tuple[int, ...]) -> Any:
        count = math.prod(shape)
        if kind == _CELL:
            return [self._nested() for _ in range(count)]
        if kind == _STRUCT:
            fields = self._fields()
            return [{field: self._nested() for field in fields} for _ in range(count)]
        if kind == _TEXT:
            return self._text(shape)
        if kind not in _ARRAYS:
            raise _FaultError(f"an array of class {kind}")
        return self._numbers().reshape(shape, order="F")

    def _nested(self) -> Any:
        kind, payload = self._element()
        if kind != _MATRIX:
            raise _FaultError(f"an element of type {kind} where an array should be")
        return self._inside(payload)._matrix(None)[1]

    def _fields(self) -> list[str]:
        length = int(self._integers()[0])
        names = bytes(self._element()[1])
        if length < 1 or not names:
            raise _FaultError("a struct without fields")
        return [names[at : at + length].split(b"\0")[0].decode("ascii") for at in range(0, len(names), length)]

    def _text(self, shape: tuple[int, ...]) -> str:
        kind, payload = self._element()
        text = bytes(payload).decode(_encoding(_ENCODINGS[kind], self.order)) if payload else ""
        if shape[0] > 1 or len(text) != math.prod(shape):
            raise _FaultError("text that is not one line")
        return text

    def _integers(self) -> Any:
        numbers = self._numbers()
        if not len(numbers):
            raise _FaultError("an array without a head")
        return numbers

    def _numbers(self) -> Any:
        kind, payload = self._element()
        return np.frombuffer(payload, np.dtype(_NUMBERS[kind]).newbyteorder(self.order))

    def _inside(self, data: memoryview) -> "_Reader":
        return _Reader(data, self.order, depth=self.depth + 1)

    def _element(self) -> tuple[int, memoryview]:
        """The next element; one of four bytes or fewer shares its tag's eight."""
        kind, size = struct.unpack_from(f"{self.order}II", self.data, self.position)
        start = self.position + 8
        if kind >> 16:
            kind, size, start = kind & 0xFFFF, kind >> 16, self.position + 4
        if start + size > len(self.data):
            raise _FaultError("it ends early")
        self.position = start + size
        if kind != _COMPRESSED:  # all others end at a multiple of eight bytes
            self.position += -self.position % 8
        return kind, self.data[start : start + size]


def _encoding(name: str, order: _Order) -> str:
    return name + {"<": "-le", ">": "-be"}[order] if name in ("utf-16", "utf-32") else name


def _inflate(payload: memoryview) -> bytes:
    content = zlib.decompressobj().decompress(payload, _MOST_BYTES)
    if len(content) == _MOST_BYTES:
        raise _FaultError(f"a variable of more than {_MOST_BYTES} bytes")
    return content
