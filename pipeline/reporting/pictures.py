"""Pictures in the report: what the sweep left in `results/pictures` becomes sheets with words around them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.drawing import contact_sheet
from pipeline.drawing.contact_sheet import Frame, Line
from pipeline.drawing.figures import file_stem
from pipeline.exports.albums import Album, Item, Sheet, Strip
from reid.visualize.picture import Shown, What


@dataclass(frozen=True, kw_only=True)
class Plate:
    """A sheet as it is printed: an SVG and a PNG document, what stands under it, and what it shows in words."""

    name: str
    title: str
    svg: str
    png: bytes
    caption: str
    words: list[str]
    notes: list[str]


def plates(album: Album, folder: Path) -> list[Plate]:
    """The sheets of an experiment, one for each data set."""
    return [_plate(album, sheet, folder) for sheet in album.sheets]


def markdown(album: Album, printed: list[Plate], *, escape: Callable[[str], str]) -> str:
    """The experiment for a code host: its figures as images, with what stands under them."""
    lines = [f"## {escape(album.title)}", "", *([escape(album.note), ""] if album.note else [])]
    for plate in printed:
        lines += [f"![{escape(plate.title)}](figures/{plate.name}.png)", ""] if plate.png else []
        lines += [
            escape(plate.caption),
            "",
            *(f"* {escape(note)}" for note in plate.notes),
            *([""] if plate.notes else []),
        ]
    return "\n".join(lines)


def _plate(album: Album, sheet: Sheet, folder: Path) -> Plate:
    name = file_stem(f"{album.name}-{sheet.dataset}")
    lines = [line for item in sheet.items for line in _lines(album.what, item, folder)]
    title = f"{_TITLES[album.what]}, {sheet.title}"
    return Plate(
        name=name,
        title=title,
        svg=contact_sheet.svg(lines, name=name, title=title) if lines else "",
        png=contact_sheet.png(lines) if lines else b"",
        caption=_caption(album.what, sheet),
        words=[_words(album.what, item, strip) for item in sheet.items for strip in item.strips],
        notes=[f"{row}: {reason}" for row, reason in sheet.missing.items()],
    )


def _lines(what: What, item: Item, folder: Path) -> list[Line]:
    """A ranking has a line of its own for each row; other pictures of an image stand side by side, the image once."""
    drawn = [(strip, _frames(strip, folder)) for strip in item.strips]
    if what == "ranking":
        return [
            Line(heading=_name(what, item) if place == 0 else "", beside=False, groups=((_label(strip), frames),))
            for place, (strip, frames) in enumerate(drawn)
        ]
    groups = [("", drawn[0][1][:1]), *((strip.row, frames[1:]) for strip, frames in drawn)]
    return [Line(heading=_name(what, item), beside=True, groups=tuple(groups))]


def _frames(strip: Strip, folder: Path) -> tuple[Frame, ...]:
    content = (folder / strip.file).read_bytes()
    return tuple(
        Frame(png=content, place=place, size=(strip.size[0], strip.size[1]), caption=tile.caption, right=tile.right)
        for place, tile in enumerate(strip.tiles)
    )


def _label(strip: Strip) -> str:
    return f"{strip.row}, AP {_percent(strip.average_precision)}"


def _name(what: What, item: Item) -> str:
    """`Query 17`; where no strip says so itself, with its AP."""
    if what == "erasers":
        return f"Training identity {item.number + 1}"
    return f"Query {item.number + 1}" + f", AP {_percent(item.average_precision)}" * (what != "ranking")


def _words(what: What, item: Item, strip: Strip) -> str:
    """What a strip shows, for whoever does not see it."""
    start = f"{_name(what, item)}, {strip.row}"
    if what == "ranking":
        right = [tile.caption for tile in strip.tiles if tile.right]
        found = f"right at rank {', '.join(right)}" if right else "no right image"
        return f"{start}: {found} among the first {len(strip.tiles) - 1}; AP {_percent(strip.average_precision)}."
    own = dict.fromkeys(tile.caption for tile in strip.tiles[1:] if tile.right is None)
    pair = [
        f"the nearest gallery image is {'right' if tile.right else 'wrong'}; "
        for tile in strip.tiles
        if tile.right is not None
    ]
    return f"{start}: {''.join(pair)}{', '.join(own)}."


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"


def _caption(what: What, sheet: Sheet) -> str:
    if not sheet.items:
        return "Nothing has been drawn yet."
    ends = f"Shown are {len(sheet.items)} of {sheet.drawn} that were taken at equal steps from the list of all"
    if sheet.by:
        ends += f" queries, at equal steps from the highest to the lowest AP of {sheet.by}; the same for all rows."
    else:
        ends += " training identities; the same for all rows."
    return f"{_CAPTIONS[what]} {ends}{_IMAGES[sheet.shown]}"


_TITLES: Mapping[What, str] = {
    "ranking": "Ranking lists",
    "activation": "Activation maps",
    "cgram": "Relevance of both images of a pair (CG-RAM)",
    "attention": "Second-order attention of three reference points",
    "erasers": "What each eraser takes away",
}
_CAPTIONS: Mapping[What, str] = {
    "ranking": (
        "A query, then the gallery images nearest to it, in order; what the protocol does not rank is left out. "
        "Green, with a tick: the same identity; red and dashed, with a cross: another."
    ),
    "activation": (
        "Blue to red: the sum of squares over the channels of the map that a branch pools, divided by its maximum in "
        "the image. The papers do not say how theirs are made."
    ),
    "cgram": (
        "A query, then the gallery image that is ranked first for it, each with its maps by branch. Blue to red: what "
        "in it makes the features of the two alike (ES-Net, equations 2 to 4). Frames as in ranking lists: green for "
        "the same identity, red and dashed for another."
    ),
    "attention": (
        "What a position (green) attends to, from its smallest weight (blue) to its greatest (red), of which eight are "
        "marked. Under it, the greatest as a multiple of the mean: 1 is attention to everything alike."
    ),
    "erasers": (
        "Hatched: what is erased in one training step; where chance decides whether an image loses anything, it does "
        "here, but DropBlock may draw no block. Erasers of maps take positions of the map, drawn as blocks; the others "
        "take pixels."
    ),
}
_IMAGES: Mapping[Shown, str] = {
    "show": "",
    "blur": " Images are blurred for the sake of the people in them: 8 columns of each are left.",
    "omit": " Images are left out for the sake of the people in them.",
}
