"""Figures: the same numbers give the same SVG, it carries its text as text and asks for nothing."""

import re
from xml.etree import ElementTree

import pytest

from pipeline.figures import Dot, Point, dot_plot, scatter, standalone

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = '<script>alert("x")</script> $\\frac{1}{2}$ \n\x00 日本'


def dots(*labels: str) -> list[Dot]:
    return [
        Dot(label=label, mean=30.0 + place, std=1.5, seeds=(29.0, 30.0, 31.0), published=40.0 if place else None)
        for place, label in enumerate(labels)
    ]


def points() -> list[Point]:
    return [Point(x=0.1 * place, y=20.0 + place, pruned=place == 1, winner=place == 3) for place in range(4)]


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def styles(svg: str, shape: str) -> list[str]:
    return [element.get("style", "") for element in ElementTree.fromstring(svg).iter(f"{SVG}{shape}")]


def test_the_same_numbers_give_the_same_bytes() -> None:
    assert dot_plot(dots("a", "b"), name="f", title="mAP") == dot_plot(dots("a", "b"), name="f", title="mAP")
    first, second = (scatter(points(), name="f", parameter="model.rh", objective="mAP") for _ in range(2))
    assert first == second


def test_every_row_is_labelled_in_order() -> None:
    found = texts(dot_plot(dots("Baseline", "BDB", "BDB + Cut"), name="f", title="mAP on Market-1501, percent"))
    assert [text for text in found if text in {"Baseline", "BDB", "BDB + Cut"}] == ["Baseline", "BDB", "BDB + Cut"]
    assert "mAP on Market-1501, percent" in found


def test_names_stay_text_whatever_they_hold() -> None:
    svg = dot_plot(dots(HOSTILE), name="f", title=HOSTILE)
    assert not list(ElementTree.fromstring(svg).iter(f"{SVG}script"))
    assert any("<script>" in text for text in texts(svg))
    assert any("$" in text for text in texts(svg))  # a formula is not typeset


@pytest.mark.parametrize(
    "svg",
    [
        dot_plot(dots("a", "b"), name="f", title="mAP"),
        scatter(points(), name="f", parameter="model.rh", objective="mAP"),
    ],
    ids=["dots", "scatter"],
)
def test_a_figure_takes_the_page_colours_and_asks_for_nothing(svg: str) -> None:
    colours = set(re.findall(r'(?:fill|stroke): ([^;"]+)', svg))
    assert colours <= {"none", "currentColor", "var(--accent, #2a6db0)", "var(--accent-2, #b0532a)"}
    assert re.findall(r"https?://[^\"' ]*", svg) == ["http://www.w3.org/2000/svg"]
    assert "font-family: 'DejaVu" not in svg
    assert "<style" not in svg  # it would hold for the whole page
    ids = re.findall(r'\bid="([^"]+)"', svg)
    assert len(ids) == len(set(ids))
    assert {*re.findall(r"#(\w+)[)\"]", svg)} - {"2a6db0", "b0532a"} == set(ids)


def test_figures_of_different_names_share_no_id() -> None:
    one, two = (dot_plot(dots("a"), name=name, title="mAP") for name in ("one", "two"))
    assert not {*re.findall(r'\bid="([^"]+)"', one)} & {*re.findall(r'\bid="([^"]+)"', two)}


def test_marks_of_the_search_figure() -> None:
    svg = scatter(points(), name="f", parameter="model.rh", objective="mAP")
    used = [style for style in styles(svg, "use") if "accent" in style]
    assert sum("accent-2" in style for style in used) == 1  # the winner's ring
    assert sum("fill-opacity: 0" in style for style in used) == 2  # the ring and the pruned trial
    assert len(used) == 5


def test_one_seed_has_no_bar() -> None:
    alone = [Dot(label="a", mean=30.0, std=None, seeds=(30.0,), published=None)]
    bar = "stroke: var(--accent, #2a6db0); stroke-opacity"
    assert bar in dot_plot(dots("a"), name="f", title="mAP")
    assert bar not in dot_plot(alone, name="f", title="mAP")


def test_names_as_parameter_values_are_shown() -> None:
    named = [Point(x=name, y=20.0, pruned=False, winner=False) for name in ("adam", "sgd")]
    assert {"adam", "sgd"} <= {*texts(scatter(named, name="f", parameter="optimiser", objective="mAP"))}


def test_a_figure_alone_follows_the_colour_scheme() -> None:
    svg = standalone(dot_plot(dots("a"), name="f", title="mAP"))
    assert "prefers-color-scheme: dark" in (ElementTree.fromstring(svg)[0].text or "")
