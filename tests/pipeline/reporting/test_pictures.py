"""Pictures from the experiment's file to the page: planned, drawn in a store, exported, laid out."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import report
from pipeline.drawing import contact_sheet
from pipeline.drawing.contact_sheet import Frame, Line
from pipeline.exports import picturing
from pipeline.exports.albums import read
from pipeline.planning import experiments, pictured
from pipeline.planning.params import Params, load
from pipeline.planning.plan import Plan, Trial, expand
from pipeline.planning.shares import Share
from pipeline.planning.strict import ParamsError
from pipeline.reporting.pictures import plates
from pipeline.running import agenda as agendas
from pipeline.running import trial
from pipeline.storage.staging import InPlace
from pipeline.storage.store import TrialStore
from reid.data.dataset import ReidData
from reid.visualize import images
from tests.pipeline import results_factory as made
from tests.pipeline.running.test_agenda import Endless

ROOT = Path(__file__).parents[3]
DIGESTS = {"synthetic": {"val": "v", "test": "t"}, "market1501": {"val": "mv", "test": "mt"}}
FILE = """
lists:
  title: Ranking lists <b>
  note: A note & more.
  pictures: {what: ranking, queries: 4}
  rows:
    - {label: Baseline, method: baseline, variant: triplet}
    - {label: "Ours <script>", method: bdb}
maps:
  title: Maps
  pictures: {what: activation, queries: 2}
  rows:
    - {label: Baseline, method: baseline, variant: triplet}
    - {label: BDB, method: bdb}
taken:
  title: Erasers
  pictures: {what: erasers, queries: 3}
  rows:
    - {label: BDB, method: bdb}
"""
TINY = {
    "recipe.image_size": [64, 32],
    "recipe.sampler.identities": 4,
    "recipe.sampler.images": 2,
    "recipe.augment.cutout_size": 8,
    "recipe.schedule.epochs": 1,
}


def parameters(**changes: Any) -> Params:
    params = load(ROOT / "params.yaml")
    demo = params.profiles["demo"]
    profiles = {"demo": demo.model_copy(update={"overrides": demo.overrides | TINY, "datasets": {}})}
    return params.model_copy(update={"profiles": profiles, "seeds": (3, 4), "datasets": ("synthetic",)} | changes)


def planned(tmp_path: Path, params: Params | None = None, text: str = FILE) -> Plan:
    (tmp_path / "declared").mkdir(exist_ok=True)
    (tmp_path / "declared" / "own.yaml").write_text(text)
    wanted = tuple(experiments.names(tmp_path / "declared"))
    return expand(
        params or parameters(),
        experiments.load(wanted, folder=tmp_path / "declared", published=made.PUBLISHED),
        DIGESTS,
    )


def drawing(plan: Plan) -> dict[str, Trial]:
    """The trials that draw, by experiment and row."""
    return {
        f"{experiment.name}/{row.row.label}": found[0]
        for experiment, rows in plan.experiments
        for row in rows
        for found in row.trials.values()
    }


def opened(path: Path) -> Image.Image:
    with Image.open(path) as file:
        return file.convert("RGB")


# --- planned ---


def test_a_row_has_one_trial_that_draws_the_network_of_the_first_seed(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    trials = drawing(plan)
    assert len(plan.trials) == 5 + 2  # five rows draw, two networks are trained
    for name, own in trials.items():
        assert own.epochs == 0
        assert own.config.seed == 3
        assert (own.source is None) == name.startswith("taken")
        if own.source is not None:
            assert own.source.key == own.spec["source"]
            assert plan.trials[own.source.key] == own.source
    assert trials["lists/Baseline"].source == trials["maps/Baseline"].source
    assert trials["lists/Baseline"].name.startswith("baseline-triplet-synthetic-s3-ranking-")


def test_pictures_train_what_tables_train(tmp_path: Path) -> None:
    table = "\ntable:\n  title: T\n  published: null\n  metrics: [mAP]\n  rows: [{label: BDB, method: bdb}]\n"
    own = drawing(planned(tmp_path))["lists/Ours <script>"]
    (cell,) = [row for item, rows in planned(tmp_path, text=table).experiments for row in rows]
    assert own.source == cell.trials["synthetic"][0]


def test_the_key_says_what_is_drawn_and_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def keys(**changes: Any) -> set[str]:
        return {own.key for own in drawing(planned(tmp_path, parameters(**changes))).values()}

    report_ = load(ROOT / "params.yaml").report
    before = keys()
    assert before == keys()
    assert not before & keys(report=report_.model_copy(update={"images": "blur"}))
    fewer = planned(tmp_path, text=FILE.replace("queries: 4", "queries: 2"))
    assert {own.key for own in drawing(fewer).values()} == before  # how many are shown is not
    monkeypatch.setattr(pictured, "_drawing_digest", lambda: "other code")
    assert not before & keys()


def test_images_of_people_are_blurred_unless_that_is_asked_for(tmp_path: Path) -> None:
    report_ = load(ROOT / "params.yaml").report
    for images_, expected in {"auto": "blur", "show": "show", "omit": "omit"}.items():
        params = parameters(datasets=("market1501",), report=report_.model_copy(update={"images": images_}))
        assert {own.spec["pictures"]["shown"] for own in drawing(planned(tmp_path, params)).values()} == {expected}
    assert {own.spec["pictures"]["shown"] for own in drawing(planned(tmp_path)).values()} == {"show"}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("  metrics: [mAP]\n", "own.yaml: lists: pictures are of networks, not of numbers: leave metrics out"),
        ("  transfer: true\n", "own.yaml: lists: pictures are of networks, not of numbers: leave transfer out"),
    ],
)
def test_pictures_have_no_numbers(line: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=re.escape(problem)):
        planned(tmp_path, text=FILE.replace("  note: A note", f"{line}  note: A note"))


def test_pictures_need_a_method(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="rows: pictures need a network, and these have no method: PCB"):
        planned(tmp_path, text=FILE.replace("    - {label: BDB, method: bdb}\ntaken", "    - {label: PCB}\ntaken"))


def test_a_wrong_kind_of_picture_is_said_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"pictures\.what is the text 'rankings'; allowed: ranking, activation"):
        planned(tmp_path, text=FILE.replace("what: ranking", "what: rankings"))


def test_a_table_needs_metrics(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="metrics: nothing is listed"):
        planned(tmp_path, text="t:\n  title: T\n  published: null\n  rows: [{label: BDB, method: bdb}]\n")


# --- drawn and exported ---


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, tiny: ReidData) -> tuple[Path, Plan, TrialStore]:
    """A store in which the agenda's trials have run, one after the other, without Ray."""
    root = tmp_path_factory.mktemp("swept")
    plan = planned(root)
    store = TrialStore(root / "results" / "trials")
    todo = agendas.Agenda(plan, store)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    while (own := todo.next(Endless())) is not None:
        store.open(own)
        keep = todo.keeps_weights(own.key)
        trial.run(_assignment(store, own.key, keep_weights=keep), lambda _: None)
        todo.ended(own.key)
    torch.set_num_threads(threads)
    assert todo.complete()
    picturing.export(root / "results" / "pictures", plan, store)
    return root, plan, store


@pytest.fixture(scope="module")
def tiny() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        data = _data()
        patch.setattr(trial, "_dataset", lambda folder: data)
        yield data


def _data() -> ReidData:
    import pandas as pd

    from reid.data.split import make_split

    parts = [("train", who) for who in range(1, 7)] + [("query", who) for who in range(7, 13)]
    rows = [{"split": part, "identity": who, "camera": camera} for part, who in parts for camera in (1, 2)]
    rows += [{"split": "gallery", "identity": who, "camera": 3} for who in range(7, 13)]
    table = pd.DataFrame([row for row in rows for _ in range(2)])
    draws = np.random.default_rng(0)
    tints = draws.uniform(40, 215, (13, 3))
    noise = draws.normal(0, 8, (len(table), 64, 32, 3))
    pixels = np.clip(tints[table["identity"].to_numpy()][:, None, None] + noise, 0, 255).astype(np.uint8)
    splits = make_split(table, val_fraction=0.5, seed=0)
    return ReidData("synthetic", pixels, table["identity"].to_numpy(), table["camera"].to_numpy(), splits, "t")


def _assignment(store: TrialStore, key: str, *, keep_weights: bool) -> trial.Assignment:
    return trial.Assignment(
        key=key,
        store=store,
        data=InPlace(Path("nowhere")),
        share=Share(cpus=1, gpus=0, processes=1),
        state_epochs=1,
        trial_seconds=None,
        silent_seconds=None,
        keep_weights=keep_weights,
    )


def test_networks_are_trained_once_and_their_pictures_are_sealed(swept: tuple[Path, Plan, TrialStore]) -> None:
    _, plan, store = swept
    assert all(store.state(key) == "done" for key in plan.trials)
    own = drawing(plan)["maps/BDB"]
    assert store.result(own.key)["epochs"] == 0
    path = store.folder(own.key) / "per_query.npz"
    path.write_bytes(whole := path.read_bytes()[:-1])
    assert store.state(own.key) != "done"  # a damaged picture is drawn again
    path.write_bytes(whole + b"\0")
    assert store.state(own.key) == "done"


def test_all_rows_show_the_same_queries_from_the_best_to_the_worst(swept: tuple[Path, Plan, TrialStore]) -> None:
    root, plan, store = swept
    lists, maps, _ = read(root / "results" / "pictures")
    (sheet,) = lists.sheets
    assert [strip.row for item in sheet.items for strip in item.strips] == ["Baseline", "Ours <script>"] * 4
    source = drawing(plan)["lists/Baseline"].source
    assert source is not None
    scores = (store.per_query(source.key) or {})["average_precision"]
    pool = sorted((-score, number) for number, score in enumerate(scores))  # 24 queries, all in the pool
    assert [item.number for item in sheet.items] == [pool[round(step * 23 / 3)][1] for step in range(4)]
    for item in sheet.items:
        assert item.average_precision == pytest.approx(scores[item.number])
        assert item.strips[0].average_precision == pytest.approx(scores[item.number])
    (other,) = maps.sheets
    assert [item.number for item in other.items] == [pool[0][1], pool[23][1]]


def test_files_are_the_images_that_were_drawn(swept: tuple[Path, Plan, TrialStore], tiny: ReidData) -> None:
    root, *_ = swept
    (sheet,) = read(root / "results" / "pictures")[0].sheets
    queries, _ = tiny.scored("test")
    for item in sheet.items:
        strip = item.strips[0]
        shown = opened(root / "results" / "pictures" / strip.file)
        width, height = strip.size
        expected = images.tile(tiny.images[queries[item.number]], "show").astype(int)
        assert shown.size == (width * len(strip.tiles), height)
        assert np.abs(np.asarray(shown)[:, :width] - expected).mean() < 6  # of 128 colours
    files = list((root / "results" / "pictures").rglob("*.png"))
    assert len(files) == 4 * 2 + 2 * 2 + 3


def test_export_leaves_nothing_of_before(swept: tuple[Path, Plan, TrialStore], tmp_path: Path) -> None:
    _, plan, store = swept
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "old.png").write_bytes(b"")
    picturing.export(tmp_path / "pictures", plan, store)
    assert not (tmp_path / "pictures" / "old.png").exists()


def test_a_row_that_failed_is_named_with_its_reason(swept: tuple[Path, Plan, TrialStore], tmp_path: Path) -> None:
    _, plan, store = swept
    copy = TrialStore(tmp_path / "trials")
    for name, own in drawing(plan).items():
        copy.open(own)
        if name == "lists/Baseline":
            copy.fail(own.key, reason="diverged: no <finite> loss")
        elif name.startswith("lists"):
            copy.finish(own.key, store.result(own.key), store.per_query(own.key))
            assert own.source is not None
            copy.open(own.source)
            copy.finish(own.source.key, store.result(own.source.key), store.per_query(own.source.key))
    picturing.export(tmp_path / "pictures", plan, copy)
    lists, maps, _ = read(tmp_path / "pictures")
    assert lists.sheets[0].missing == {"Baseline": "diverged: no <finite> loss"}
    assert lists.sheets[0].by == "Ours <script>"
    assert {strip.row for item in lists.sheets[0].items for strip in item.strips} == {"Ours <script>"}
    assert maps.sheets[0].items == []
    assert maps.sheets[0].missing["BDB"] == "not drawn yet: its trial is running"
    (plate,) = plates(maps, tmp_path / "pictures")
    assert (plate.svg, plate.png, plate.caption) == ("", b"", "Nothing has been drawn yet.")


def test_a_network_that_is_gone_is_trained_again(swept: tuple[Path, Plan, TrialStore]) -> None:
    _, plan, store = swept
    own = drawing(plan)["maps/BDB"]
    assert own.source is not None
    kept = store.weights(own.source.key)
    aside = kept.rename(kept.with_suffix(".aside"))
    try:
        with pytest.raises(trial.DamagedNetworkError, match="is not there"):
            trial.run(_assignment(store, own.key, keep_weights=False), lambda _: None)
    finally:
        aside.rename(kept)


# --- in the report ---


@pytest.fixture(scope="module")
def generated(swept: tuple[Path, Plan, TrialStore], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report over hand-made trials and these pictures."""
    root = made.make_results(tmp_path_factory.mktemp("report"))
    target = root / "results" / "pictures"
    for path in (swept[0] / "results" / "pictures").rglob("*.*"):
        (target / path.relative_to(swept[0] / "results" / "pictures")).parent.mkdir(parents=True, exist_ok=True)
        (target / path.relative_to(swept[0] / "results" / "pictures")).write_bytes(path.read_bytes())
    report.run(root)
    return root / "reports" / "generated"


def test_the_page_holds_the_pictures_and_asks_for_nothing(generated: Path) -> None:
    page = (generated / "index.html").read_text()
    assert page.count('href="data:image/png;base64,') == 8 + 4 + 3
    assert not re.search(r'(?:href|src)="(?!#|data:|http://127\.0\.0\.1:5000|[\w/-]+\.(?:svg|png|md|tex|csv)")', page)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert all(f'id="{place}"' in page for place in re.findall(r'href="#([^"]+)"', page))
    assert "Ours <script>" not in page
    assert "Ours &lt;script&gt;" in page


def test_the_caption_says_how_the_images_were_chosen(generated: Path) -> None:
    page = (generated / "index.html").read_text()
    assert "Shown are 4 of 24 that were taken at equal steps from the list of all queries" in page
    assert "from the highest to the lowest AP of Baseline; the same for all rows." in page
    assert "Shown are 3 of 6 that were taken at equal steps from the list of all training identities" in page
    assert "blurred" not in page


def test_what_is_blurred_or_left_out_is_said(swept: tuple[Path, Plan, TrialStore]) -> None:
    folder = swept[0] / "results" / "pictures"
    album = read(folder)[0]
    for shown, words in (("blur", "Images are blurred"), ("omit", "Images are left out")):
        sheets = [replace(sheet, shown=shown) for sheet in album.sheets]  # type: ignore[arg-type]
        (plate,) = plates(replace(album, sheets=sheets), folder)
        assert words in plate.caption


def test_lists_are_told_in_words(generated: Path, swept: tuple[Path, Plan, TrialStore]) -> None:
    album = read(swept[0] / "results" / "pictures")[0]
    page = (generated / "index.html").read_text()
    for item in album.sheets[0].items:
        right = ", ".join(tile.caption for tile in item.strips[0].tiles if tile.right)
        found = f"right at rank {right}" if right else "no right image"
        assert f"Query {item.number + 1}, Baseline: {found} among the first 10; AP " in page


def test_files_of_figures_stand_on_their_own(generated: Path) -> None:
    for name in ("lists-synthetic", "maps-synthetic", "taken-synthetic"):
        root = ElementTree.fromstring((generated / "figures" / f"{name}.svg").read_text())
        assert root.get("role") == "img"
        assert root.get("aria-label")
        width, height = opened(generated / "figures" / f"{name}.png").size
        assert (2 * float(root.attrib["width"]), 2 * float(root.attrib["height"])) == (width, height)
    text = (generated / "lists.md").read_text()
    assert "](figures/lists-synthetic.png)" in text
    assert "## Ranking lists &lt;b&gt;" in text


def test_a_damaged_index_is_named_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text(json.dumps([{"name": "x"}]))
    with pytest.raises(ValueError, match=r"index\.json: 0\.title: Field required"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match="the sweep stage writes it"):
        read(tmp_path / "nowhere")


# --- laid out ---


def _strip(*colours: tuple[int, int, int]) -> bytes:
    return images.png([np.full((40, 20, 3), colour, np.uint8) for colour in colours])


def _frame(place: int, right: bool | None = None) -> Frame:
    return Frame(png=_strip((200, 0, 0), (0, 0, 200)), place=place, size=(20, 40), caption=f"no {place}", right=right)


def test_each_tile_is_cut_from_its_place_in_the_strip() -> None:
    line = Line(heading="", beside=False, groups=(("row", (_frame(0), _frame(1))),))
    sheet = np.asarray(Image.open(io.BytesIO(contact_sheet.png([line]))).convert("RGB")).astype(int)
    for box, colour in zip(
        _boxes(contact_sheet.svg([line], name="s", title="t")), ((200, 0, 0), (0, 0, 200)), strict=True
    ):
        x, y = (2 * (float(box[axis]) + half) for axis, half in (("x", 10), ("y", 20)))
        assert np.abs(sheet[round(y), round(x)] - colour).max() < 12


def _boxes(svg: str) -> list[dict[str, str]]:
    return [item.attrib for item in ElementTree.fromstring(svg) if item.tag.endswith("}svg")]


def test_frames_are_told_apart_without_colours() -> None:
    line = Line(heading="", beside=False, groups=(("row", (_frame(0, True), _frame(1, False))),))
    found = contact_sheet.svg([line], name="s", title="t")
    right, wrong = re.findall(r"<rect[^>]*>", found)
    assert "dasharray" not in right
    assert "dasharray" in wrong
    assert "no 0 ✓" in found
    assert "no 1 ✗" in found


def test_lines_stand_beside_each_other_where_there_is_room() -> None:
    lines = [Line(heading=f"q{n}", beside=True, groups=(("", (_frame(0),) * 15),)) for n in range(6)]
    boxes = _boxes(contact_sheet.svg(lines, name="s", title="t"))
    assert len({box["y"] for box in boxes}) == 3  # two of 390 pixels in 1080
    root = ElementTree.fromstring(contact_sheet.svg(lines, name="s", title="t"))
    assert max(float(box["x"]) + 20 for box in boxes) <= float(root.attrib["width"]) <= 1080
    one = [replace(line, beside=False) for line in lines]
    assert len({box["y"] for box in _boxes(contact_sheet.svg(one, name="s", title="t"))}) == 6


def test_hostile_words_stay_words() -> None:
    line = Line(heading='<script>"', beside=False, groups=(("a & b\n<i>", (_frame(0),)),))
    found = contact_sheet.svg([line], name="s", title='"><script>')
    texts = [item.text for item in ElementTree.fromstring(found).iter() if item.tag.endswith("}text")]
    assert texts == ['<script>"', "a & b <i>", "no 0"]


def test_the_same_sheet_is_the_same_bytes() -> None:
    line = Line(heading="q", beside=False, groups=(("row", (_frame(0, True), _frame(1, False))),))
    assert contact_sheet.png([line]) == contact_sheet.png([line])
    assert contact_sheet.svg([line], name="s", title="t") == contact_sheet.svg([line], name="s", title="t")
