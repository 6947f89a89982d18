"""Whether the rows of a table agree in what should be equal for their numbers to be compared."""

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pipeline.planning.experiments import ARROW

if TYPE_CHECKING:
    from pipeline.exports.results import Run
    from pipeline.reporting.tables import Panel


def warnings(panels: "Sequence[Panel]") -> Iterable[str]:
    """Where they differ: in protocol, data, code, precision or version of torch; a sentence for each."""
    runs = [(panel, run) for panel in panels for run in panel.done]
    for field in dict.fromkeys(field for _, run in runs for field in run.protocol):
        values = [(panel.title, panel.label, json.dumps(run.protocol.get(field))) for panel, run in runs]
        yield from _disagreements(f"protocol: {field}", values)
    yield from _disagreements("data digest", [(panel.title, panel.label, _data(run)) for panel, run in runs])
    yield from _disagreements("code digest", [(run.method, panel.label, run.code_digest[:8]) for panel, run in runs])
    precision = [("", panel.label, run.config["recipe"]["precision"]) for panel, run in runs]
    yield from _disagreements("precision", precision)
    yield from _disagreements("torch version", [("", panel.label, run.torch) for panel, run in runs])


def _data(run: "Run") -> str:
    return ARROW.join(digest[:8] for digest in run.data_digest.split(ARROW))


def _disagreements(what: str, found: Sequence[tuple[str, str, str]]) -> Iterable[str]:
    for group in dict.fromkeys(name for name, _, _ in found):
        rows: dict[str, dict[str, None]] = {}
        for name, row, value in found:
            if name == group:
                rows.setdefault(value, {})[row] = None
        if len(rows) > 1:
            where = f" ({group})" if group else ""
            sides = "; ".join(f"{value}: {', '.join(labels)}" for value, labels in rows.items())
            yield f"Runs of this table differ in {what}{where}, so their numbers may not compare. {sides}."
