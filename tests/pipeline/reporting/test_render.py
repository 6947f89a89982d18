"""The four formats: what they say, and that no name can become markup in any of them."""

import base64
import csv
import hashlib
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pipeline.drawing import figures
from pipeline.exports import results
from pipeline.exports.results import Experiment
from pipeline.planning import published
from pipeline.reporting import captions, evidence, render, significance, tables
from pipeline.reporting.tables import Table
from tests.pipeline import results_factory as made

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "\\input{/etc/passwd}",
    "100% of $x_1^2$ & {more} ~ #1",
    "a | b || c",
    "two\nlines\r\n\n| x | y |",
    "[link](http://evil.example) ![image](x) <http://evil.example>",
    "*star* _under_ `code` ~~gone~~ **bold**",
    "{{ 7 * 7 }} {% raw %} << 7 * 7 >> <% set x = 1 %>",
    "[58] at the start of a row",
    "* at the start of a row",
    "1. - + = at the start",
    "quotes \"double\", 'single', `back`",
    "../../etc/passwd",
    "Größe λ = 0.5 ± 日本",
    "]]></style></title></pre>",
    "\x00\x1b[31mcontrol",
]
URL = re.compile(r"^(#[\w.-]*|[\w-]+\.(md|tex|csv)|data:,|http://127\.0\.0\.1:5000/#/[^\"<>]*)$")


def spaced(text: str) -> str:
    """A text as one line: what a reader sees of it in Markdown and LaTeX."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def table(rows: list[dict[str, Any]], entries: list[Any], **changes: Any) -> Table:
    content = made.experiment("own", entries) | changes
    declared = pydantic.TypeAdapter(Experiment).validate_python(content)
    printed = published.load(made.PUBLISHED, declared.published) if declared.published else None
    runs = {row["key"]: results.as_run(row) for row in rows}
    built = tables.build(declared, datasets={"synthetic": "Embedded set"}, runs=runs, printed=printed)
    return significance.compared(built, made.scores(rows))


def hostile_table(**changes: Any) -> Table:
    """Every hostile text as a label, as the reason of a failure, as title and as note."""
    rows, entries = [], []
    for place, name in enumerate(HOSTILE):
        pair = [made.trial(seed=seed, mean_ap=0.3 + place / 100, model={"name": name}) for seed in (0, 1)]
        pair[1] = made.unfinished(pair[1], "failed", name)
        rows += pair
        entries.append(made.plan_row(name, {"synthetic": [row["key"] for row in pair]}, published=None))
    return table(rows, entries, **{"title": HOSTILE[0], "note": HOSTILE[2]} | changes)


def simple_table() -> Table:
    rows = [made.trial(seed=seed, mean_ap=value) for seed, value in enumerate((0.30, 0.31, 0.335))]
    other = made.trial(seed=0, mean_ap=0.2, model={"rh": 0.5})
    lost = made.unfinished(made.trial(seed=1, model={"rh": 0.5}), "failed", "out of memory")
    entries = [
        made.plan_row("PCB", {}, method=None),
        made.plan_row("BDB", {"synthetic": [row["key"] for row in rows]}),
        made.plan_row("Half", {"synthetic": [other["key"], lost["key"]]}, published=None),
    ]
    return table([*rows, other, lost], entries, published="bdb_table1", published_datasets=["Market-1501"])


def marked_table() -> Table:
    """Rows above and below the first one, of three seeds."""
    rows, entries = [], []
    for name, level in (("base", 0.4), ("above", 0.6), ("below", 0.2)):
        three = [made.trial(seed=seed, mean_ap=level, model={"name": name}) for seed in range(3)]
        rows += three
        entries.append(made.plan_row(name, {"synthetic": [row["key"] for row in three]}, published=None))
    return table(rows, entries)


def page(shown: Table) -> str:
    runs = {run.key: run for panel in shown.panels for run in panel.runs}
    plan = results.PlanFile(**made.plan([]))
    behind = evidence.of(shown, plan, runs)
    section = render.Section(table=shown, evidence=behind, words=(), own=(), figures={}, learning=(), searches=())
    return render.html(render.Page(header=(("Trials", "3"),), ui=made.UI, runs=runs, sections=(section,)))


class Reader(HTMLParser):
    """Elements, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


# --- Markdown ---


def test_markdown_reads_well_as_plain_text() -> None:
    lines = render.markdown(simple_table()).splitlines()
    assert lines[0] == "## BDB, Table 1: own"
    assert [line.replace(" ", "") for line in (lines[2], *lines[4:7])] == [
        "||Embeddedset:Rank-1|Embeddedset:mAP|Market-1501,published(n.c.):Rank-1|Market-1501,published(n.c.):mAP|",
        "|PCB|–|–|92.4|71.3†|",
        "|BDB|**47.2±2.7**(3)|**31.5±1.8**(3)|94.2|84.3|",
        "|Half|<ins>30.0</ins>(1/2)▽\\*|<ins>20.0</ins>(1/2)▽\\*|–|–|",
    ]
    assert re.fullmatch(r"\| -+ (\| -+: ){4}\|", lines[3])
    assert len({len(line) for line in lines[2:7]}) == 1  # padded
    notes = [line for line in lines if line.startswith("- ")]
    assert "- \\* Half (Embedded set): seed 1 failed: out of memory." in notes
    assert (
        "- n.c.: not comparable (measured on Embedded set, published on Market-1501), so no difference is given."
        in notes
    )
    assert any(note.startswith("- † PCB, Market-1501, mAP 71.3: doubtful: OCR reads 71.3") for note in notes)


def test_hostile_names_stay_text_in_markdown() -> None:
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(render.markdown(hostile_table()))
    inline = [token for token in tokens if token.type == "inline"]
    children = [child for token in inline for child in token.children or ()]
    assert {child.content for child in children if child.type == "html_inline"} <= {"<ins>", "</ins>"}
    assert not {child.type for child in children} & {
        "link_open",
        "image",
        "code_inline",
        "em_open",
        "s_open",
        "hardbreak",
    }
    assert not {token.type for token in tokens} & {"html_block", "fence", "code_block", "blockquote_open"}
    assert sum(token.type == "td_open" for token in tokens) == 3 * len(HOSTILE)
    shown = {"".join(child.content for child in token.children or ()) for token in inline}
    assert {spaced(name) for name in HOSTILE} <= shown


@given(st.text(max_size=60))
def test_markdown_shows_any_text_as_it_is(text: str) -> None:
    source = f"| a |\n| --- |\n| {render.escape_markdown(text)} |\n"
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(source)
    cells = [token for token in tokens if token.type == "inline"]
    assert len(cells) == 2
    assert "".join(child.content for child in cells[1].children or ()) == spaced(text)
    assert {child.type for child in cells[1].children or ()} <= {"text", "text_special"}


# --- LaTeX ---

COMMANDS = re.compile(
    r"begin|end|centering|caption|label|(top|mid|bottom|cmid)rule|multicolumn|textbf|underline|scriptsize|pm|dagger|"
    r"smallskip|linewidth|footnotesize|ensuremath|blacktriangle(down)?|vartriangle|triangledown|alpha|beta|lambda|times|rightarrow|ldots|"
    r"text(backslash|asciitilde|asciicircum|less|greater|bar|asciigrave|quotedbl|dagger|tt)"
)


def assert_sound(source: str) -> None:
    """Braces balance, only known commands are called, and `$` comes in pairs."""
    source = re.sub(r"^%.*$", "", source, flags=re.MULTILINE)
    assert all(COMMANDS.fullmatch(command) for command in re.findall(r"\\([A-Za-z]+)", source))
    assert set(re.findall(r"\\([^A-Za-z])", source)) <= set("\\{}$&#_% \n")
    bare = re.sub(r"\\.", "", source, flags=re.DOTALL)
    depth = 0
    for letter in bare:
        depth += (letter == "{") - (letter == "}")
        assert depth >= 0
    assert depth == 0
    assert bare.count("$") % 2 == 0
    assert not set("%#~<>|") & set(bare)


def test_latex_is_a_booktabs_table() -> None:
    source = render.latex(simple_table())
    assert_sound(source)
    rows = [line for line in source.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert rows == [
        r"Method & Rank-1 & mAP & Rank-1 & mAP \\",
        r"PCB & -- & -- & 92.4 & 71.3$^{\dagger}$ \\",
        r"BDB & \textbf{47.2} {\scriptsize $\pm$ 2.7 (3)} & \textbf{31.5} {\scriptsize $\pm$ 1.8 (3)} & 94.2 & 84.3 \\",
        r"Half & \underline{30.0} {\scriptsize (1/2)}$^{\triangledown*}$ & "
        r"\underline{20.0} {\scriptsize (1/2)}$^{\triangledown*}$ & -- & -- \\",
    ]
    assert r"\begin{tabular}{l cc cc}" in source
    assert r" & \multicolumn{2}{c}{Embedded set} & \multicolumn{2}{c}{Market-1501, published (n.c.)} \\" in source
    assert r"\cmidrule(lr){2-3} \cmidrule(lr){4-5}" in source
    assert re.findall(r"\\(toprule|midrule|bottomrule)", source) == ["toprule", "midrule", "bottomrule"]


def test_hostile_names_stay_text_in_latex() -> None:
    source = render.latex(hostile_table())
    assert_sound(source)
    assert r"\input" not in source
    body = source[source.index(r"\midrule") : source.index(r"\bottomrule")].splitlines()[1:]
    assert len(body) == len(HOSTILE)
    for line in body:
        assert line.endswith(r" \\")
        assert len(re.findall(r"(?<!\\)&", line)) == 2
        assert not line.startswith(("[", "*"))


def packages() -> bool:
    found = shutil.which("kpsewhich") and subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True)
    return bool(found) and found.returncode == 0


@pytest.mark.skipif(not packages(), reason="needs pdflatex with booktabs: Debian's texlive-latex-recommended")
def test_latex_compiles_with_every_hostile_name_and_every_mark(tmp_path: Path) -> None:
    bodies = [render.latex(shown) for shown in (simple_table(), hostile_table(), marked_table())]
    tables = "\n".join(bodies)
    assert all(mark in tables for mark in (r"\blacktriangle}", r"\blacktriangledown}", r"\triangledown"))
    head = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{amssymb}\usepackage{booktabs}\begin{document}"
    (tmp_path / "page.tex").write_text(f"{head}\n{tables}\n\\end{{document}}\n", encoding="utf-8")
    command = ["pdflatex", "-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    assert "(/etc" not in done.stdout  # what \\input would have read


@given(st.text(max_size=60))
def test_latex_shows_any_text_as_it_is(text: str) -> None:
    escaped = render.escape_latex(text)
    assert_sound(escaped)
    known = {
        r"\textbackslash{}": "\\",
        r"\textasciitilde{}": "~",
        r"\textasciicircum{}": "^",
        r"\textless{}": "<",
        r"\textgreater{}": ">",
        r"\textbar{}": "|",
        r"\textasciigrave{}": "`",
        r"\textquotedbl{}": '"',
        "{[}": "[",
        "{*}": "*",
    } | {f"\\{letter}": letter for letter in "{}$&#_%"}
    pattern = "|".join(map(re.escape, known)) + r"|\\texttt\{U\+([0-9A-F]+)\}"
    read = re.sub(pattern, lambda found: chr(int(found[1], 16)) if found[1] else known[found[0]], escaped)
    if not set(text) & set("±×→αβλ−–—…†"):
        assert read == spaced(text)


# --- tables with holes ---


def _seeds(*values: float | None, name: str = "a") -> tuple[list[dict[str, Any]], Any]:
    """A row whose seeds have these mAPs; None: the trial failed."""
    rows = [made.trial(seed=seed, mean_ap=value or 0.1, model={"name": name}) for seed, value in enumerate(values)]
    pairs = zip(rows, values, strict=True)
    rows = [made.unfinished(row, "failed", "no room") if value is None else row for row, value in pairs]
    return rows, made.plan_row(name, {"synthetic": [row["key"] for row in rows]}, published=None)


def _unmeasured() -> tuple[list[dict[str, Any]], Any]:
    rows, entry = _seeds(0.3, 0.4)
    return [row | {"mAP": float("nan")} for row in rows], entry


HOLES: dict[str, tuple[list[tuple[list[dict[str, Any]], Any]], str, str]] = {
    "no seed": ([([], made.plan_row("a", {"synthetic": []}, published=None))], "–", "– a (Embedded set): not declared"),
    "no data set": ([([], made.plan_row("a", {}, published=None)), _seeds(0.3, name="b")], "–", "– a (Embedded set)"),
    "one seed": ([_seeds(0.3)], "30.0 (1)", ""),
    "two seeds": ([_seeds(0.3, 0.4)], "35.0 ± 7.1 (2)", ""),
    "a failed seed": ([_seeds(0.3, None)], r"30.0 (1/2)\*", r"\* a (Embedded set): seed 1 failed: no room."),
    "all failed": (
        [_seeds(None, None)],
        r"–\*",
        r"\* a (Embedded set): seed 0 failed: no room; seed 1 failed",
    ),
    "not a number": ([_unmeasured()], r"–\*", r"\* a (Embedded set): seed 0 has no mAP; seed 1 has no mAP."),
    "ties": ([_seeds(0.3, name="b"), _seeds(0.3, name="a")], "**30.0** (1)", ""),
}


@pytest.mark.parametrize("hole", HOLES)
def test_a_table_with_holes_is_whole_in_every_format_and_says_why(hole: str) -> None:
    parts, text, note = HOLES[hole]
    shown = table([row for rows, _ in parts for row in rows], [entry for _, entry in parts])
    lines = render.markdown(shown).splitlines()
    cells = next(line.split("|") for line in lines if line.startswith("| a "))
    assert [cell.strip() for cell in cells][-2] == text
    assert any(line.startswith(f"- {note}") for line in lines)
    assert_sound(render.latex(shown))
    assert len(list(csv.DictReader(io.StringIO(render.csv_text(shown))))) == 2 * len(parts)
    assert note.removeprefix("\\") in " ".join(Reader(page(shown)).texts)


# --- CSV and file names ---


def test_csv_holds_every_cell_and_its_trials() -> None:
    shown = simple_table()
    rows = list(csv.DictReader(io.StringIO(render.csv_text(shown))))
    assert len(rows) == 3 * 4
    mine = next(row for row in rows if (row["row"], row["kind"], row["metric"]) == ("BDB", "ours", "mAP"))
    assert (mine["value"], mine["std"], mine["n"], mine["declared"], mine["mark"]) == ("31.5", "1.8", "3", "3", "best")
    assert mine["trials"].split() == [run.key for run in shown.panels[0].runs]
    half = next(row for row in rows if (row["row"], row["kind"], row["metric"]) == ("Half", "ours", "mAP"))
    assert (half["n"], half["declared"], half["reason"]) == ("1", "2", "seed 1 failed: out of memory")
    theirs = next(row for row in rows if (row["row"], row["kind"], row["metric"]) == ("PCB", "published", "Rank-1"))
    assert (theirs["value"], theirs["dataset"]) == ("92.4", "Market-1501")
    assert theirs["reason"].endswith("measured on Embedded set, published on Market-1501")


def test_hostile_names_come_back_from_csv() -> None:
    rows = list(csv.DictReader(io.StringIO(render.csv_text(hostile_table()), newline="")))
    assert list(dict.fromkeys(row["row"] for row in rows)) == HOSTILE


@given(st.lists(st.text(max_size=80), unique=True, max_size=5))
def test_file_names_are_safe_and_keep_names_apart(names: list[str]) -> None:
    stems = [figures.file_stem(name) for name in names]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,80}", stem) for stem in stems)
    assert len(set(stems)) == len(names)


def test_a_plain_name_is_its_own_file_name() -> None:
    assert figures.file_stem("bdb_table7a") == "bdb_table7a"
    assert "/" not in figures.file_stem("../../etc/passwd")


# --- HTML ---


def test_hostile_names_stay_text_in_html() -> None:
    text = page(hostile_table(name=HOSTILE[1]))
    read, plain = Reader(text), Reader(page(simple_table()))
    assert set(read.tags) - set(plain.tags) <= {"p", "b"}  # a note, a warning: nothing that a name brought
    assert read.tags.count("script") == 1
    assert not [name for _, name, _ in read.attributes if name.startswith("on")]
    heads = [name.replace("\r\n", "\n") for name in HOSTILE]
    shown = [item.replace("\r\n", "\n") for item in read.texts]
    assert all(
        any(head.replace("\x00", "\ufffd") == item.replace("\x00", "\ufffd") for item in shown) for head in heads
    )


@pytest.mark.parametrize("shown", [simple_table(), hostile_table()], ids=["simple", "hostile"])
def test_the_page_asks_for_nothing_outside(shown: Table) -> None:
    text = page(shown)
    links = [
        value for _, name, value in Reader(text).attributes if name in {"href", "src", "action", "srcset", "poster"}
    ]
    assert links
    assert all(URL.match(value) for value in links)
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", text[text.index("<style>") : text.index("</style>")])


def test_the_policy_allows_the_pages_own_script_alone() -> None:
    text = page(simple_table())
    script = text[text.index("<script>") + 8 : text.index("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(value for tag, name, value in Reader(text).attributes if (tag, name) == ("meta", "content"))
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}';" in policy


def test_ids_are_unique_and_every_link_in_the_page_arrives() -> None:
    attributes = Reader(page(hostile_table())).attributes
    ids = [value for _, name, value in attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for _, name, value in attributes if name == "href" and value.startswith("#")} <= set(ids)


def test_a_cell_opens_its_runs() -> None:
    text = page(simple_table())
    assert '<a href="#own.0"><span class="mean">31.5</span>' in text
    panel = text[text.index('<div id="own.0">') : text.index('<div id="own.1">')]
    run = simple_table().panels[0].runs[0]
    for part in (run.key, run.commit, run.data_digest, run.code_digest, "2 min", "30.00", "33.50", "cpu"):
        assert part in panel
    assert f"{made.UI}/#/experiments/1/runs/{run.run_id}" in panel
    half = text[text.index('<div id="own.1">') :]
    assert "failed: out of memory" in half
    assert re.search(r"<code>model\.rh</code> <span>0\.3 → 0\.5</span>", half)


def test_changes_that_no_commit_holds_are_shown() -> None:
    row = made.trial(dirty=True)
    text = page(table([row], [made.plan_row("a", {"synthetic": [row["key"]]}, published=None)]))
    assert "+ changes</abbr>" in text


# --- words ---


def test_the_protocol_in_words_leaves_no_field_out() -> None:
    words = captions.protocol_words(
        {
            "ranks": [1, 5],
            "flip": True,
            "rule": "cross_camera",
            "ap": "cut50",
            "rerank": True,
            "rerank_k1": 20,
            "draws": 10,
        }
    )
    assert words == (
        "features averaged over image and mirror; same-camera images of the query's identity dropped; "
        "AP cut at rank 50; re-ranked by k-reciprocal neighbours; ranks 1, 5; rerank_k1 20"
    )
    assert captions.protocol_words({"rule": "one_shot", "draws": 10, "draw_seed": 0}) == (
        "one drawn image of each identity as the gallery; draw_seed 0; draws 10"
    )


def test_facts_name_the_rows_where_they_differ() -> None:
    rows = [made.trial(), made.trial(model={"rh": 0.5}, recipe_changes={"image_size": (96, 48)})]
    entries = [
        made.plan_row(label, {"synthetic": [row["key"]]}, published=None)
        for label, row in zip(("a", "b"), rows, strict=True)
    ]
    facts = dict(captions.facts(table(rows, entries)))
    assert facts["Training"] == "resnet18; 128 × 64 pixels (a); 96 × 48 pixels (b); 12 epochs; fp32"
    assert facts["Seeds"] == "0"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89, "89 s"), (95, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (360000, "100.0 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert captions.duration(seconds) == text
