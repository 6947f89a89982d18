"""SVG as PNG: on white, at twice its size, with a font that comes along, so that all machines draw the same."""

import functools
import re
from pathlib import Path

import resvg_py

_PROPERTY = re.compile(r"var\(--[\w-]+, *([^()]*)\)")  # a page's colour, and what it is where there is no page


def png(svg: str) -> bytes:
    """The drawing as a PNG file.

    Raises:
        ValueError: it is no SVG.
    """
    return bytes(
        resvg_py.svg_to_bytes(
            svg_string=_PROPERTY.sub(r"\1", svg),
            background="#ffffff",
            skip_system_fonts=True,
            font_files=_fonts(),
            font_family="DejaVu Sans",
            sans_serif_family="DejaVu Sans",
            zoom=2,
        )
    )


@functools.cache
def _fonts() -> list[str]:
    """The files of the font, which comes with Matplotlib: slow to import, and most commands draw nothing."""
    import matplotlib as mpl

    folder = Path(mpl.get_data_path()) / "fonts" / "ttf"
    return [str(folder / f"DejaVuSans{weight}.ttf") for weight in ("", "-Bold")]
