"""A writer of MATLAB files of version 5, for miniatures: what `reid.data.matfile` reads, and some that it refuses."""

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

Order = Literal["<", ">"]

_TYPES = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 9, "i8": 12, "u8": 13}
_CLASSES = {"f8": 6, "f4": 7, "i1": 8, "u1": 9, "i2": 10, "u2": 11, "i4": 12, "u4": 13, "i8": 14, "u8": 15}
_MATRIX, _COMPRESSED, _UTF16 = 14, 15, 4


def write(
    path: Path, variables: Mapping[str, Any], *, compressed: bool = True, order: Order = "<", flags: int = 0
) -> None:
    """Write variables: arrays, text, lists (cell arrays) and lists of dictionaries with equal keys (structs).

    Args:
        path: the file.
        variables: by name.
        compressed: as -v7 does it, or plain, as -v6.
        order: of the bytes.
        flags: of the variables' own arrays; 0x08 says complex.
    """
    elements = [_matrix(value, order, name=name, flags=flags) for name, value in variables.items()]
    if compressed:
        packed = [zlib.compress(element) for element in elements]
        elements = [struct.pack(f"{order}II", _COMPRESSED, len(content)) + content for content in packed]
    head = b"MATLAB 5.0 MAT-file, a miniature".ljust(124) + struct.pack(f"{order}H", 0x0100)
    path.write_bytes(head + (b"IM" if order == "<" else b"MI") + b"".join(elements))


def _matrix(value: Any, order: Order, *, name: str = "", flags: int = 0) -> bytes:
    kind, shape, content = _content(value, order)
    head = _element(6, struct.pack(f"{order}II", kind | flags << 8, 0), order)
    dimensions = _element(5, struct.pack(f"{order}{len(shape)}i", *shape), order)
    return _element(_MATRIX, head + dimensions + _element(1, name.encode(), order) + content, order)


def _content(value: Any, order: Order) -> tuple[int, tuple[int, ...], bytes]:
    if isinstance(value, str):
        encoded = value.encode("utf-16-le" if order == "<" else "utf-16-be")
        return 4, (min(1, len(value)), len(value)), _element(_UTF16, encoded, order)
    if isinstance(value, list) and value and isinstance(value[0], dict):
        names = b"".join(field.encode().ljust(32, b"\0") for field in value[0])
        fields = _element(5, struct.pack(f"{order}i", 32), order) + _element(1, names, order)
        return 2, (1, len(value)), fields + b"".join(_matrix(item, order) for row in value for item in row.values())
    if isinstance(value, list):
        return 1, (len(value), 1), b"".join(_matrix(item, order) for item in value)
    array = np.atleast_2d(value)
    code = array.dtype.str[1:]
    content = array.astype(array.dtype.newbyteorder(order)).tobytes(order="F")
    return _CLASSES[code], array.shape, _element(_TYPES[code], content, order)


def _element(kind: int, content: bytes, order: Order) -> bytes:
    if 0 < len(content) <= 4:
        small = kind | len(content) << 16
        return struct.pack(f"{order}I", small) + content.ljust(4, b"\0")
    return struct.pack(f"{order}II", kind, len(content)) + content + bytes(-len(content) % 8)
