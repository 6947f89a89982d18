"""The trial that draws what a network does: a trial like others, with a key of its own."""

import functools
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.planning import keys
from pipeline.planning.experiments import POOL, Pictures, Row
from reid.visualize import drawing
from reid.visualize.picture import Picture, Shown

if TYPE_CHECKING:
    from pipeline.planning.plan import Trial

_drawing_digest = functools.cache(keys.drawing_digest)


def pictured(scored: "Trial", wanted: Pictures, row: Row, shown: Shown) -> "Trial":
    """The trial that draws what a row's network does.

    Args:
        scored: the row's trial, with the protocol to rank by.
        wanted: what to draw.
        row: whose embedding is ranked by.
        shown: what becomes of the data set's images.
    """
    picture = Picture(what=wanted.what, shown=shown, count=POOL, embedding=row.embedding)
    needed = drawing.needs_network(scored.config, wanted.what)
    source = (scored.source or scored) if needed else None
    spec = keys.picture_spec(
        scored.spec,
        picture,
        source=source.key if source else None,
        code_digest=_drawing_digest(),
        target={"dataset": scored.spec["dataset"], "data_digest": scored.spec["data_digest"]},
    )
    key, readable = keys.trial_key(spec), scored.name.rpartition("-")[0].removesuffix("-scored")
    name = f"{readable}-{wanted.what}-{key[:8]}"
    return replace(scored, key=key, setting=keys.setting_key(spec), name=name, spec=spec, source=source)
