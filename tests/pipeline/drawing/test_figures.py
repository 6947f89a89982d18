"""Figures: the same numbers give the same SVG, it carries its text as text and asks for nothing."""

import re
from xml.etree import ElementTree

import pytest

from pipeline.drawing.canvas import standalone
from pipeline.drawing.figures import Dot, dot_plot
from pipeline.drawing.search_figures import Tried, front, history, importance, learning, parallel, scatter
from pipeline.planning.searches import Space

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = '<script>alert("x")</script> $\\frac{1}{2}$ \n\x00 日本'


def dots(*labels: str) -> list[Dot]:
    return [
        Dot(label=label, mean=30.0 + place, std=1.5, seeds=(29.0, 30.0, 31.0), published=40.0 if place else None)
        for place, label in enumerate(labels)
    ]


SPACE = {
    "model.rh": Space(low=0.0, high=1.0),
    "recipe.schedule.peak_lr": Space(low=1e-4, high=1e-1, log=True),
    "model.pool": Space(choices=("max", "avg", True)),
    HOSTILE: Space(low=0, high=9, when={"model.pool": "max"}),
}
LABELS = ("mAP, percent", "seconds of a training step")


def trials() -> list[Tried]:
    """Five, the second stopped early, the fourth the winner; every third lacks the setting with a condition."""
    return [
        Tried(
            number=place,
            params={
                "model.rh": 0.1 * place,
                "recipe.schedule.peak_lr": 10.0 ** -(1 + place % 4),
                "model.pool": "avg" if place % 3 == 0 else "max",
                **({HOSTILE: place} if place % 3 else {}),
            },
            values=(20.0 + place % 4, 3.0 + place),
            pruned=place == 1,
            place=int(place == 3),
            on_front=place in (0, 3),
        )
        for place in range(5)
    ]


def course(one: Tried) -> list[tuple[float, float]]:
    """Up to its value: ten epochs, or three of a trial that was stopped."""
    epochs = 3 if one.pruned else 10
    return [(float(epoch), one.values[0] * epoch / epochs) for epoch in range(1, epochs + 1)]


def drawn(kind: str, tried: list[Tried]) -> str:
    """One of a search's figures."""
    if kind == "history":
        return history(tried, objective=LABELS[0])
    if kind == "learning":
        return learning([(one, course(one)) for one in tried], objective=LABELS[0])
    if kind == "front":
        return front(tried, objectives=LABELS)
    if kind == "parallel":
        return parallel(tried, space=SPACE, objectives=LABELS)
    if kind == "importance":
        return importance({"model.rh": 0.2, HOSTILE: 0.7, "model.pool": 0.1}, title="importance")
    having = [one for one in tried if kind in one.params]
    return scatter(having, parameter=kind, space=SPACE[kind], objective=LABELS[0])


KINDS = ("history", "learning", "front", "parallel", "importance", *SPACE)


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def marks(svg: str) -> list[tuple[float, float, str]]:
    """Place and style of every dot."""
    circles = ElementTree.fromstring(svg).iter(f"{SVG}circle")
    return [(float(one.get("cx", "")), float(one.get("cy", "")), one.get("style", "")) for one in circles]


def styles(svg: str, shape: str) -> list[str]:
    return [element.get("style", "") for element in ElementTree.fromstring(svg).iter(f"{SVG}{shape}")]


def test_the_same_numbers_give_the_same_bytes() -> None:
    assert dot_plot(dots("a", "b"), title="mAP") == dot_plot(dots("a", "b"), title="mAP")
    assert all(drawn(kind, trials()) == drawn(kind, trials()) for kind in KINDS)


def test_every_row_is_labelled_in_order() -> None:
    found = texts(dot_plot(dots("Baseline", "BDB", "BDB + Cut"), title="mAP on Market-1501, percent"))
    assert [text for text in found if text in {"Baseline", "BDB", "BDB + Cut"}] == ["Baseline", "BDB", "BDB + Cut"]
    assert "mAP on Market-1501, percent" in found


def test_names_stay_text_whatever_they_hold() -> None:
    svg = dot_plot(dots(HOSTILE), title=HOSTILE)
    assert not list(ElementTree.fromstring(svg).iter(f"{SVG}script"))
    assert any("<script>" in text for text in texts(svg))
    assert any("$" in text for text in texts(svg))  # a formula is not typeset


@pytest.mark.parametrize(
    "svg",
    [dot_plot(dots("a", "b"), title="mAP"), *(drawn(kind, trials()) for kind in KINDS)],
    ids=["dots", *(re.sub(r"[^a-z.]", "", kind) for kind in KINDS)],
)
def test_a_figure_takes_the_page_colours_and_asks_for_nothing(svg: str) -> None:
    colours = set(re.findall(r'(?:fill|stroke): ([^;"]+)', svg))
    assert colours <= {"none", "currentColor", "var(--accent, #2a6db0)", "var(--accent-2, #b0532a)"}
    assert re.findall(r"https?://[^\"' ]*", svg) == ["http://www.w3.org/2000/svg"]
    assert "<style" not in svg  # it would hold for the whole page
    assert not re.findall(r'\bid="', svg)  # of two figures in one page


@pytest.mark.parametrize("kind", ["history", "learning", "model.rh", "front"])
def test_marks_of_the_search_figures(kind: str) -> None:
    used = [style for _, _, style in marks(drawn(kind, trials()))]
    assert sum("accent-2" in style for style in used) == 1  # the winner's ring
    assert sum("fill: none" in style for style in used) == 2  # the ring and the pruned trial
    assert len(used) == 6


def lines(svg: str, colour: str) -> list[list[tuple[float, float]]]:
    """The points of every curve of a colour."""
    paths = ElementTree.fromstring(svg).iter(f"{SVG}path")
    found = [path.get("d", "") for path in paths if f"stroke: {colour}" in path.get("style", "")]
    return [points(text) for text in found]


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML](\S+?) ([^MLZ]+)", path)]


def test_the_history_s_line_never_falls_and_leaves_stopped_trials_out() -> None:
    tried = [*trials(), Tried(number=5, params={}, values=(99.0,), pruned=True, place=0)]
    steps = max(lines(drawn("history", tried), "currentColor"), key=len)
    heights = [-y for _, y in steps]
    assert heights == sorted(heights)
    assert min(y for _, y, _ in marks(drawn("history", tried))) < min(y for _, y in steps)  # 99 is above the line


def test_a_learning_curve_goes_to_where_its_trial_ended() -> None:
    svg = drawn("learning", trials())
    (winner,) = (line for line in lines(svg, "var(--accent-2") if len(line) > 2)
    assert len(winner) == 10
    (stopped,) = (line for line in lines(svg, "currentColor") if len(line) == 3)
    (hollow,) = [(x, y) for x, y, style in marks(svg) if "fill: none" in style and "accent-2" not in style]
    assert stopped[-1] == hollow


def test_the_front_s_line_goes_through_what_nothing_beats_alone() -> None:
    corners = max(lines(drawn("front", trials()), "currentColor"), key=len)
    assert len(corners) == 3  # two points and the corner between them


def test_parallel_coordinates_have_a_gap_where_a_setting_is_not_asked_for() -> None:
    svg = drawn("parallel", trials())
    winner = max(lines(svg, "var(--accent-2"), key=len)
    assert len(winner) == 6 - 1  # of four settings it lacks one
    assert len({round(x, 3) for x, _ in winner}) == 5
    shown = texts(svg)
    assert {"max", "avg", "true", "0.0001", "0.1", "20", "23"} <= set(shown)
    faint = [path for path in styles(svg, "path") if "stroke-opacity: 0.16" in path]
    assert len(faint) == 1  # the trial that was stopped


def test_bars_of_importance_are_in_order_and_to_scale() -> None:
    bars = [bar for bar in lines_of_bars(drawn("importance", trials())) if bar]
    assert bars == pytest.approx([0.7, 0.2, 0.1], abs=2e-3)


def lines_of_bars(svg: str) -> list[float]:
    """The lengths of the bars, of 1 in all, from top to bottom."""
    paths = ElementTree.fromstring(svg).iter(f"{SVG}path")
    found = [path.get("d", "") for path in paths if "fill: var(--accent" in path.get("style", "")]
    ends = [points(text) for text in found]
    widths = {min(y for _, y in bar): max(x for x, _ in bar) - min(x for x, _ in bar) for bar in ends}
    return [widths[y] / sum(widths.values()) for y in sorted(widths)]


@pytest.mark.parametrize("kind", KINDS)
def test_one_trial_is_a_figure_too(kind: str) -> None:
    alone = [Tried(number=0, params=trials()[1].params, values=(20.0, 3.0), pruned=False, place=1, on_front=True)]
    assert ElementTree.fromstring(drawn(kind, alone)).tag == f"{SVG}svg"


def test_a_logarithmic_setting_has_its_powers_written_out() -> None:
    assert {"0.001", "0.01"} <= set(texts(drawn("recipe.schedule.peak_lr", trials())))


def test_nothing_finished_is_a_history_without_a_line() -> None:
    stopped = [Tried(number=0, params={}, values=(20.0,), pruned=True, place=0)]
    assert "accent" in drawn("history", stopped)


def test_one_seed_has_no_bar() -> None:
    alone = [Dot(label="a", mean=30.0, std=None, seeds=(30.0,), published=None)]
    bar = "stroke: var(--accent, #2a6db0); stroke-width: 2.2"
    assert bar in dot_plot(dots("a"), title="mAP")
    assert bar not in dot_plot(alone, title="mAP")


def test_names_as_parameter_values_are_shown() -> None:
    assert {"max", "avg"} <= {*texts(drawn("model.pool", trials()))}


def test_a_figure_alone_follows_the_colour_scheme() -> None:
    svg = standalone(dot_plot(dots("a"), title="mAP"))
    assert "prefers-color-scheme: dark" in (ElementTree.fromstring(svg)[0].text or "")
