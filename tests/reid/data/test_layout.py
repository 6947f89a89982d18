import os
from pathlib import Path

import pytest

from reid.data.layout import Form, Home, find, locate, not_found, read_rows, whole


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def listed(home: Home, *names: str, below: str = "images") -> list[str]:
    entries = [(f"list.txt, line {number}", name) for number, name in enumerate(names, 1)]
    return home.listed(entries, below=below, source=Path("list.txt"))


def test_the_first_form_in_its_first_home_is_found(tmp_path: Path) -> None:
    touch(tmp_path, "a/list.txt", "b/list.txt", "b/images/1.jpg", "c/other.txt")
    form = Form(("a", "b", "."), ("list.txt", "images/"))
    other = Form(("c",), ("other.txt",))
    assert find(tmp_path, [form, other]) == Home(tmp_path, tmp_path / "b", ("list.txt", "images/"))
    assert find(tmp_path, [other, form]) == Home(tmp_path, tmp_path / "c", ("other.txt",))
    assert find(tmp_path / "c", [form]) is None


def test_a_file_is_no_folder_and_a_folder_no_file(tmp_path: Path) -> None:
    touch(tmp_path, "images", "list.txt/x")
    assert find(tmp_path, [Form((".",), ("images/",)), Form((".",), ("list.txt",))]) is None


def test_two_forms_are_shown(tmp_path: Path) -> None:
    touch(tmp_path, "cars/one.mat")
    forms = [Form(("cars196", "stanford", "."), ("one.mat", "images/")), Form(("other",), ("two.mat",))]
    assert str(not_found(tmp_path, [*forms, Form(("third",), ("three.mat",))], name="CARS")) == (
        f"CARS is not under {tmp_path}\n"
        "Set REID_DATASETS to the folder that holds it. Expected there:\n"
        "  cars196/  (or stanford/, or the folder itself)\n"
        "    one.mat\n"
        "    images/\n"
        "  or\n"
        "  other/\n"
        "    two.mat\n"
        f"Closest folder found: {tmp_path}/cars (lacks images)"
    )


def test_of_many_homes_the_first_are_shown(tmp_path: Path) -> None:
    form = Form(("a", "b", "c", "d", "e", "f", "."), ("x/",))
    with pytest.raises(FileNotFoundError, match=r"\n  a/  \(or b/, or c/, or d/, or the folder itself\)\n    x/\n"):
        locate(tmp_path, [form], name="X")


def test_listed_paths_are_relative_to_the_root(tmp_path: Path) -> None:
    touch(tmp_path, "set/images/b.jpg", "set/images/deep/a.jpg")
    home = Home(tmp_path, tmp_path / "set")
    assert listed(home, "b.jpg", "./deep//a.jpg") == ["set/images/b.jpg", "set/images/deep/a.jpg"]
    here = Home(tmp_path / "set" / "images", tmp_path / "set" / "images")
    assert listed(here, "deep/a.jpg", below=".") == ["deep/a.jpg"]


@pytest.mark.parametrize("name", ["../secret.jpg", "deep/../../x.jpg", "/etc/passwd", ".."])
def test_a_list_cannot_lead_out(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "secret.jpg", "images/a.jpg")
    with pytest.raises(ValueError, match=rf"^list.txt, line 2: '{name}' leaves {tmp_path}/images; write the path"):
        listed(Home(tmp_path, tmp_path), "a.jpg", name)


def test_of_many_missing_files_the_first_are_listed(tmp_path: Path) -> None:
    touch(tmp_path, "images/0.jpg", "images/deep/x")
    names = [f"{number}.jpg" for number in range(4)] + [f"deep/{number}.jpg" for number in range(4)] + ["gone/1.jpg"]
    with pytest.raises(FileNotFoundError) as caught:
        listed(Home(tmp_path, tmp_path), *names)
    assert str(caught.value) == (
        f"list.txt names 8 files that are not in {tmp_path}/images; unpack the data set again, or mend the list: "
        "1.jpg, 2.jpg, 3.jpg, deep/0.jpg, deep/1.jpg and 3 more"
    )


def test_a_file_where_a_folder_should_be_is_a_missing_file(tmp_path: Path) -> None:
    touch(tmp_path, "images/deep")
    with pytest.raises(FileNotFoundError, match=r"names 1 files .*: deep/1.jpg$"):
        listed(Home(tmp_path, tmp_path), "deep/1.jpg")


def test_each_folder_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{folder}/{number}.jpg" for folder in "ab" for number in range(20)]
    touch(tmp_path / "images", *names)
    folders: list[str] = []
    plain = os.scandir

    def scandir(folder: Path) -> object:
        folders.append(folder.name)
        return plain(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    assert len(listed(Home(tmp_path, tmp_path), *names)) == 40
    assert folders == ["a", "b"]


def test_images_may_have_any_name_that_is_text(tmp_path: Path) -> None:
    names = ["ü.jpg", "行人.PNG", "x" * 251 + ".jpg"]
    touch(tmp_path, *(f"images/{name}" for name in names))
    images = Home(tmp_path, tmp_path).images("images")
    assert images == {name: f"images/{name}" for name in sorted(names)}


def test_a_name_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "images/good.jpg")
    (tmp_path / "images" / os.fsdecode(b"\xff\xfe.jpg")).touch()
    with pytest.raises(ValueError, match=r"images: 1 names are not UTF-8, rename them: '\\udcff\\udcfe.jpg'$"):
        Home(tmp_path, tmp_path).images("images")


def test_rows_are_told_where_they_are(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbfname  number\r\na.jpg\t1\r\n\r\n b.jpg   2\r\n\n")
    assert read_rows(path, ("name", "number"), headed=1) == [
        (f"{path}, line 2", ["a.jpg", "1"]),
        (f"{path}, line 4", ["b.jpg", "2"]),
    ]


@pytest.mark.parametrize(
    ("text", "headed", "message"),
    [
        (b"", 0, "list.txt lists nothing; unpack the data set again"),
        (b"name number\n", 1, "list.txt lists nothing"),
        (b"a.jpg 1\nb.jpg\n", 0, "list.txt, line 2: 1 fields, 2 are expected: name number"),
        (b"a b.jpg 1\n", 0, "list.txt, line 1: 3 fields, 2 are expected"),
        (b"a.jpg 1\n", 1, "list.txt, line 1: the header 'name number' is expected there"),
        (b"1\n", 2, "list.txt, line 2: the header 'name number' is expected there"),
        (b"\xff\xfea.jpg 1", 0, r"list.txt is not UTF-8 text \(.*\); save it as UTF-8"),
    ],
)
def test_a_list_that_does_not_parse_is_an_error(tmp_path: Path, text: bytes, headed: int, message: str) -> None:
    (tmp_path / "list.txt").write_bytes(text)
    with pytest.raises(ValueError, match=message):
        read_rows(tmp_path / "list.txt", ("name", "number"), headed=headed)


def test_whole_numbers() -> None:
    assert whole("0042", "x") == 42
    assert whole("-1", "x", least=-1) == -1
    for text in ("", "-1", "1.0", "1e3", "0x1", " 1", "one", "١", "9" * 19):
        with pytest.raises(ValueError, match=r"^here is .*, allowed: whole numbers from 0$"):
            whole(text, "here")


def test_a_link_to_itself_is_left_to_who_opens_it(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg")
    (tmp_path / "images" / "loop.jpg").symlink_to("loop.jpg")
    assert list(Home(tmp_path, tmp_path).images("images")) == ["a.jpg", "loop.jpg"]
