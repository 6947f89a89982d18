"""SVG as PNG: on white, at twice its size, with a font that comes along, so that all machines draw the same."""

import re
from pathlib import Path

import matplotlib as mpl
import resvg_py

_PROPERTY = re.compile(r"var\(--[\w-]+, *([^()]*)\)")  # a page's colour, and what it is where there is no page
_FONTS = [str(Path(mpl.get_data_path()) / "fonts" / "ttf" / f"DejaVuSans{weight}.ttf") for weight in ("", "-Bold")]


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
            font_files=_FONTS,
            font_family="DejaVu Sans",
            sans_serif_family="DejaVu Sans",
            zoom=2,
        )
    )
