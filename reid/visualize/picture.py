"""What there is to draw; without torch, for whoever only reads what is wanted."""

from dataclasses import dataclass
from typing import Literal

from reid.config import Count, Settings

What = Literal["ranking", "activation", "cgram", "attention", "erasers"]
Shown = Literal["show", "blur", "omit"]


@dataclass(frozen=True, kw_only=True)
class Picture(Settings):
    """What to draw of a network.

    `what`: see the package. `shown`: whether images are shown as they are, blurred, or left out. `count`: images that
    are drawn, or all if there are fewer. `embedding`: that is ranked by; the method's own unless it is named.
    """

    what: What
    shown: Shown
    count: Count
    embedding: str = ""
