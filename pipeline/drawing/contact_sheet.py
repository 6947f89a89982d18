"""Small images in lines, with frames and words, as SVG for a page and as PNG.

Both are laid out once, in pixels. The SVG takes the colours of the page that it stands in; the PNG is on white.
"""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from xml.sax.saxutils import escape, quoteattr

from PIL import Image

from pipeline.drawing import raster
from pipeline.drawing.canvas import extent, one_line

_GAP, _GROUP_GAP, _LINE_GAP, _COLUMN_GAP, _EDGE = 6, 14, 22, 34, 4
_WIDE = 1080  # that lines beside each other may take
_HEADING, _LABEL, _CAPTION = 20, 16, 15  # heights of lines of text
_SIZES = {"heading": 13, "label": 12, "caption": 10}
_COLOURS = {True: "var(--right, #1a7f37)", False: "var(--wrong, #c62828)"}
_MARKS = {True: " ✓", False: " ✗", None: ""}


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A tile of a strip: the strip's PNG file, its place in it, its width and height, the words under it.

    `right`: framed as right or wrong; None: not framed.
    """

    png: bytes
    place: int
    size: tuple[int, int]
    caption: str
    right: bool | None


@dataclass(frozen=True, kw_only=True)
class Line:
    """Groups of frames side by side, each under a label; a heading above them all, if there is one.

    `beside`: it may stand beside the one before it, where there is room.
    """

    heading: str
    beside: bool
    groups: tuple[tuple[str, tuple[Frame, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class _Word:
    x: float
    y: float
    text: str
    style: str
    middle: bool = False


@dataclass(frozen=True, kw_only=True)
class _Box:
    x: float
    y: float
    frame: Frame


def svg(lines: Sequence[Line], *, name: str, title: str) -> str:
    """The sheet as a whole SVG document, images within, each strip once.

    Args:
        lines: at least one.
        name: of the sheet; one page holds no two of a name.
        title: its accessible name.
    """
    things, width, height = _laid_out(lines)
    strips = dict.fromkeys(thing.frame.png for thing in things if isinstance(thing, _Box))
    names = {content: f"{name}-{place}" for place, content in enumerate(strips)}
    body = [_defined(content, key) for content, key in names.items()]
    body += [
        _written(thing) if isinstance(thing, _Word) else _framed(thing, names[thing.frame.png]) for thing in things
    ]
    root = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label={quoteattr(one_line(title))} style="font-family: system-ui, sans-serif">'
    )
    return "\n".join([root, *body, "</svg>"]) + "\n"


def png(lines: Sequence[Line]) -> bytes:
    """The sheet as a PNG file, on white, at twice its size."""
    drawn = raster.png(svg([_cut_up(line) for line in lines], name="strip", title=""))
    sheet = Image.open(io.BytesIO(drawn)).convert("RGB")
    palette = sheet.reduce(4).quantize(256, method=Image.Quantize.MEDIANCUT)  # of all pixels it takes seconds
    buffer = io.BytesIO()
    sheet.quantize(palette=palette, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _cut_up(line: Line) -> Line:
    """The line with each tile as a strip of its own: a whole strip would be scaled again for every tile in it."""
    groups = ((label, tuple(map(_cut_out, frames))) for label, frames in line.groups)
    return replace(line, groups=tuple(groups))


def _cut_out(frame: Frame) -> Frame:
    width, height = frame.size
    strip, buffer = Image.open(io.BytesIO(frame.png)), io.BytesIO()
    strip.crop((width * frame.place, 0, width * (frame.place + 1), height)).save(buffer, format="PNG")
    return replace(frame, png=buffer.getvalue(), place=0)


def _laid_out(lines: Sequence[Line]) -> tuple[list[_Word | _Box], int, int]:
    """Words and boxes, line by line, and the size of it all."""
    things: list[_Word | _Box] = []
    width, x, top, bottom = 0.0, 0.0, 0.0, 0.0
    for line in lines:
        own, wide, high = _line(line)
        if not (line.beside and x and x + wide <= _WIDE):
            x, top = 0.0, bottom + (_LINE_GAP if bottom and line.heading else _GAP * bool(bottom))
        things += [replace(thing, x=thing.x + x, y=thing.y + top) for thing in own]
        width, bottom = max(width, x + wide), max(bottom, top + high)
        x += wide + _COLUMN_GAP
    return things, round(width), round(bottom)


def _line(line: Line) -> tuple[list[_Word | _Box], float, float]:
    """One line on its own, and its width and height."""
    things: list[_Word | _Box] = []
    if line.heading:
        things.append(_Word(x=_EDGE, y=_HEADING - 6, text=line.heading, style="heading"))
    top = _HEADING * bool(line.heading) + _LABEL
    width, x = extent(line.heading, _SIZES["heading"]), float(_EDGE)
    for label, frames in line.groups:
        things.append(_Word(x=x, y=top - 4, text=label, style="label"))
        right = x
        for frame in frames:
            slot = max(frame.size[0], extent(_caption(frame), _SIZES["caption"]))
            things += _placed(frame, right + (slot - frame.size[0]) / 2, top)
            right += slot + _GAP
        x = max(right - _GAP, x + extent(label, _SIZES["label"]))
        width = max(width, x)
        x += _GROUP_GAP
    return things, width + _EDGE, top + max(frame.size[1] for _, frames in line.groups for frame in frames) + _CAPTION


def _placed(frame: Frame, x: float, y: float) -> Iterator[_Word | _Box]:
    yield _Box(x=x, y=y, frame=frame)
    below, text = y + frame.size[1] + _CAPTION - 4, _caption(frame)
    yield _Word(x=x + frame.size[0] / 2, y=below, text=text, style="caption", middle=True)


def _caption(frame: Frame) -> str:
    return frame.caption + _MARKS[frame.right]


def _defined(content: bytes, key: str) -> str:
    width, height = Image.open(io.BytesIO(content)).size
    data = base64.b64encode(content).decode()
    return f'<defs><image id="{key}" width="{width}" height="{height}" href="data:image/png;base64,{data}"/></defs>'


def _framed(box: _Box, key: str) -> str:
    """One tile, a window on its strip, and its frame."""
    width, height = box.frame.size
    place = f'x="{box.x:g}" y="{box.y:g}" width="{width}" height="{height}"'
    tile = f'<svg {place} viewBox="{width * box.frame.place} 0 {width} {height}"><use href="#{key}"/></svg>'
    if box.frame.right is None:
        return tile
    dashes = "" if box.frame.right else ' stroke-dasharray="7 4"'
    return f'{tile}<rect {place} fill="none" style="stroke: {_COLOURS[box.frame.right]}" stroke-width="3"{dashes}/>'


def _written(word: _Word) -> str:
    anchor = ' text-anchor="middle"' if word.middle else ""
    weight = ' font-weight="600"' if word.style == "heading" else ""
    place = f'x="{word.x:g}" y="{word.y:g}" font-size="{_SIZES[word.style]}"'
    return f'<text {place} fill="currentColor"{anchor}{weight}>{escape(one_line(word.text))}</text>'
