import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from reid.data import market1501
from reid.data.pedestrian import Colour, Person, Pose, paint, sample_person
from reid.data.synthetic import FOLDERS, SyntheticConfig, draw

TINY = SyntheticConfig(train_identities=3, test_identities=4, distractors=6, junk=5, height=32, width=16)
NAME = re.compile(r"^(-1|\d{4})_c([1-6])s([1-6])_(\d{6})_(\d{2})\.jpg$")  # 0002_c1s1_000451_03.jpg
MARK: Colour = (255, 0, 255)  # no palette holds it


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw") / "synthetic"
    draw(folder, TINY)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def sightings(folder: Path) -> list[tuple[int, int]]:
    """(identity, camera) of every image in a folder, by the names' own pattern."""
    matches = [NAME.match(file.name) for file in folder.iterdir()]
    return [(int(match[1]), int(match[2])) for match in matches if match is not None]


def test_layout_and_names_are_those_of_market_1501(drawn: Path) -> None:
    assert sorted(entry.name for entry in drawn.iterdir()) == sorted(FOLDERS)
    unparsed = [path for path in contents(drawn) if not NAME.match(Path(path).name)]
    assert unparsed == []


def test_the_reader_of_market_1501_reads_it(drawn: Path) -> None:
    records = market1501.read(drawn)
    assert Counter(record.split for record in records) == {
        split: len(list((drawn / folder).iterdir()))
        for split, folder in zip(("train", "query", "gallery"), FOLDERS, strict=True)
    }


def test_train_and_test_identities_are_disjoint_and_all_there(drawn: Path) -> None:
    train, query, gallery = ({identity for identity, _ in sightings(drawn / name)} for name in FOLDERS)
    assert train == {1, 2, 3}
    assert query == {4, 5, 6, 7}
    assert gallery == query | {0, -1}


def test_each_identity_is_seen_as_often_as_configured(drawn: Path) -> None:
    for names in (FOLDERS[:1], FOLDERS[1:]):
        images = Counter(sighting for name in names for sighting in sightings(drawn / name) if sighting[0] > 0)
        assert set(images.values()) <= {2, 3}
        cameras = Counter(identity for identity, _ in images)
        assert all(3 <= seen <= 6 for seen in cameras.values())


def test_junk_and_distractors_are_in_the_gallery_in_the_number_asked_for(drawn: Path) -> None:
    identities = Counter(identity for identity, _ in sightings(drawn / "bounding_box_test"))
    assert identities[-1] == TINY.junk
    assert identities[0] == TINY.distractors


def test_one_query_a_camera_and_each_has_a_match_in_another(drawn: Path) -> None:
    queries, gallery = sightings(drawn / "query"), sightings(drawn / "bounding_box_test")
    assert len(set(queries)) == len(queries)
    assert set(queries) == {sighting for sighting in gallery if sighting[0] > 0}
    for identity, camera in queries:
        assert any(other == identity and elsewhere != camera for other, elsewhere in gallery)


@pytest.mark.parametrize(("height", "width"), [(16, 8), (48, 48), (40, 17)])
def test_other_sizes_and_fewer_cameras_are_drawn_too(tmp_path: Path, height: int, width: int) -> None:
    draw(tmp_path / "set", replace(TINY, height=height, width=width, cameras=3, train_identities=1))
    for file in (tmp_path / "set").rglob("*.jpg"):
        with Image.open(file) as image:
            assert image.size == (width, height)
    assert {camera for _, camera in sightings(tmp_path / "set" / "query")} == {1, 2, 3}


def test_images_are_colour_jpegs_of_the_size_asked_for(drawn: Path) -> None:
    for file in drawn.rglob("*.jpg"):
        with Image.open(file) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (16, 32))
            assert np.asarray(image).std() > 3, f"{file.name} shows nothing"


def test_the_same_seed_gives_the_same_bytes(drawn: Path, tmp_path: Path) -> None:
    draw(tmp_path / "again", TINY)
    assert contents(tmp_path / "again") == contents(drawn)


def test_another_seed_gives_other_images(drawn: Path, tmp_path: Path) -> None:
    draw(tmp_path / "other", replace(TINY, seed=1))
    assert not set(contents(tmp_path / "other").values()) & set(contents(drawn).values())


def test_an_image_does_not_depend_on_how_many_others_are_drawn(drawn: Path, tmp_path: Path) -> None:
    draw(tmp_path / "fewer", replace(TINY, test_identities=3, junk=0))
    fewer, all_of_them = contents(tmp_path / "fewer"), contents(drawn)
    assert fewer
    assert all(all_of_them[path] == data for path, data in fewer.items())


def test_progress_counts_every_image_once(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    draw(tmp_path / "set", TINY, lambda done, total: calls.append((done, total)))
    total = len(contents(tmp_path / "set"))
    assert calls == [(done, total) for done in range(1, total + 1)]


def test_an_interrupted_run_leaves_no_folder_and_the_next_one_is_whole(drawn: Path, tmp_path: Path) -> None:
    def interrupt(done: int, _total: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path / "set", TINY, interrupt)
    assert not (tmp_path / "set").exists()
    draw(tmp_path / "set", TINY)
    assert contents(tmp_path / "set") == contents(drawn)
    assert [entry.name for entry in tmp_path.iterdir()] == ["set"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    draw(tmp_path / "set", replace(TINY, distractors=0, junk=0))
    assert (tmp_path / "set" / "query").is_dir()


@pytest.mark.parametrize("is_folder", [True, False])
def test_what_is_there_already_is_refused_and_kept(tmp_path: Path, *, is_folder: bool) -> None:
    folder = tmp_path / "set"
    precious = folder / "precious.txt" if is_folder else folder
    precious.parent.mkdir(exist_ok=True)
    precious.write_text("mine")
    with pytest.raises(FileExistsError, match="set is not an empty folder: name another, or remove it"):
        draw(folder, TINY)
    assert precious.read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cameras": 7}, r"SyntheticConfig.cameras is 7, allowed: 2 to 6"),
        ({"least_cameras": 5, "cameras": 4}, r"SyntheticConfig.least_cameras is 5, which is more than cameras \(4\)"),
        ({"least_images": 4}, r"SyntheticConfig.least_images is 4, which is more than most_images \(3\)"),
        ({"test_identities": 5000}, r"SyntheticConfig.test_identities is 5000, allowed: 1 to 4999"),
    ],
)
def test_a_configuration_that_cannot_be_drawn_is_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


def seen(person: Person, yaw: float) -> int:
    """How many pixels of the marking colour a viewpoint shows."""
    image = Image.new("RGB", (64, 128))
    pose = Pose(yaw=yaw, stride=0.2, bend=0.3, tilt=0.15)
    paint(ImageDraw.Draw(image), person, pose, feet=(32, 122), height=116)
    return int((np.asarray(image) == MARK).all(axis=2).sum())


@pytest.fixture
def person() -> Person:
    looks = sample_person(np.random.default_rng(3))
    return replace(looks, bag="none", hat="none", pattern="plain", hair_style="short", top="shirt", bottom="trousers")


def test_a_backpack_shows_from_behind_and_its_straps_from_the_front(person: Person) -> None:
    carrier = replace(person, bag="backpack", bag_colour=MARK)
    front, side, back = seen(carrier, 0.0), seen(carrier, np.pi / 2), seen(carrier, np.pi)
    assert 0 < front < side < back


def test_a_logo_is_hidden_from_behind(person: Person) -> None:
    wearer = replace(person, pattern="logo", second_colour=MARK)
    assert seen(wearer, 0.0) > 50
    assert seen(wearer, np.pi) == 0


def test_a_shoulder_bag_is_hidden_by_the_body_on_the_far_side(person: Person) -> None:
    near, far = (seen(replace(person, bag="shoulder", bag_colour=MARK, side=side), np.pi / 2) for side in (-1, 1))
    assert far < near / 3


def test_both_garments_are_seen_from_everywhere(person: Person) -> None:
    for yaw in np.linspace(-np.pi, np.pi, 9):
        assert seen(replace(person, top_colour=MARK), float(yaw)) > 300
        assert seen(replace(person, bottom_colour=MARK), float(yaw)) > 300


def test_people_often_share_the_colours_of_both_garments() -> None:
    looks = [sample_person(np.random.default_rng(seed)) for seed in range(100)]
    colours = np.array([(*look.top_colour, *look.bottom_colour) for look in looks])
    distance = np.abs(colours[:, None] - colours[None]).max(axis=2) + 1000 * np.eye(100, dtype=int)
    alike = (distance.min(axis=1) <= 16).mean()  # dyes vary by up to 7 levels around the palette
    assert 0.3 < alike < 0.95
