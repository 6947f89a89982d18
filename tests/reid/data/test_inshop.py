from pathlib import Path

import pytest

from reid.data import inshop
from reid.data.manifest import Record, tabulate
from tests.reid.data import miniatures

HEADER = "image_name item_id evaluation_status"
ROWS = (
    "img/WOMEN/Dresses/id_00000002/02_1_front.jpg                         id_00000002 train",
    "img/WOMEN/Skirts/id_00000010/01_2_side.jpg id_00000010 query",
    "img/MEN/Denim/id_00007982/01_4_full.jpg id_00000010 gallery",
)


def make(root: Path, *lines: str) -> Path:
    for row in ROWS:
        path = root / "Img" / row.split()[0]
        path.parent.mkdir(parents=True)
        path.touch()
    text = lines or (str(len(ROWS)), HEADER, *ROWS)
    (root / "list_eval_partition.txt").write_text("".join(f"{line}\n" for line in text))
    return root


def test_query_and_gallery_are_the_list_s(tmp_path: Path) -> None:
    assert inshop.read(make(tmp_path)) == [
        Record("Img/img/WOMEN/Dresses/id_00000002/02_1_front.jpg", 2, 0, "train"),
        Record("Img/img/WOMEN/Skirts/id_00000010/01_2_side.jpg", 10, 0, "query"),
        Record("Img/img/MEN/Denim/id_00007982/01_4_full.jpg", 10, 0, "gallery"),
    ]


@pytest.mark.parametrize("partition", ["list_eval_partition.txt", "Eval/list_eval_partition.txt"])
@pytest.mark.parametrize("above", ["Img/", ""])
@pytest.mark.parametrize("home", ["DeepFashion/In-shop_Clothes_Retrieval_Benchmark", "."])
def test_the_list_and_the_images_may_lie_higher_or_lower(tmp_path: Path, partition: str, above: str, home: str) -> None:
    (tmp_path / home).mkdir(parents=True, exist_ok=True)
    expected = [
        Record((Path(home) / path).as_posix(), shot.identity, 0, shot.split)
        for path, shot in miniatures.inshop(tmp_path / home, partition, above).items()
    ]
    assert tabulate(inshop.read(tmp_path)).equals(tabulate(expected))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("4", HEADER, *ROWS), "partition.txt, line 1 promises 4 images, the list has 3; unpack it again"),
        ((HEADER, *ROWS), "partition.txt, line 2: the header 'image_name item_id evaluation_status' is expected there"),
        (("3", *ROWS), "partition.txt, line 2: the header"),
        (
            ("1", HEADER, ROWS[0].replace("train", "val")),
            "line 3: evaluation_status is 'val', allowed: train, query, ga",
        ),
        (("1", HEADER, ROWS[0].replace(" id_00000002", " 2")), "line 3: item_id is '2', a number above 0 is expected"),
        (("1", HEADER, ROWS[0].replace(" id_00000002", " id_00000000")), "line 3: item_id is 'id_00000000', a number"),
        (("1", HEADER, "img/../../x.jpg id_00000002 train"), "line 3: 'img/../../x.jpg' leaves"),
        (("0", HEADER), "partition.txt lists nothing"),
    ],
)
def test_a_list_that_does_not_parse_is_an_error(tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        inshop.read(make(tmp_path, *lines))


def test_files_that_the_list_names_must_be_there(tmp_path: Path) -> None:
    make(tmp_path, "1", HEADER, "img/WOMEN/x.jpg id_00000002 train")
    with pytest.raises(
        FileNotFoundError, match=r"partition.txt names 1 files that are not in .*/Img; .*: img/WOMEN/x.jpg$"
    ):
        inshop.read(tmp_path)
