"""Joins to the printed numbers: exactly one, a dash the paper prints, or an error that helps."""

import csv
import shutil
from pathlib import Path

import pytest

from pipeline.planning.published import PublishedError, PublishedTable, load
from tests.pipeline.results_factory import PUBLISHED

STEMS = sorted(path.stem for path in PUBLISHED.glob("*_table*.csv"))


def written(folder: Path, lines: list[str], *, dashes: int = 0) -> PublishedTable:
    header = "paper,table,dataset,protocol,method,reference,variant_flags,metric,mean,std,note"
    (folder / "own.csv").write_text("\n".join([header, *lines]) + "\n")
    (folder / "index.csv").write_text(f"file,dash_cells_omitted\nown.csv,{dashes}\n")
    return load(folder, "own")


def test_reads_the_number_as_it_is_printed() -> None:
    number = load(PUBLISHED, "bdb_table2").find(method="BDB + Cut", dataset="Market-1501", metric="mAP")
    assert number is not None
    assert (number.mean, number.std, number.doubtful) == ("86.7", "", False)


@pytest.mark.parametrize("stem", STEMS)
def test_every_printed_number_joins_to_itself(stem: str) -> None:
    table = load(PUBLISHED, stem)
    with (PUBLISHED / f"{stem}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(table.numbers)
    for row in rows:
        place = f"{row['dataset']}: {row['protocol']}" if row["protocol"] else row["dataset"]
        number = table.find(method=row["method"], dataset=place, metric=row["metric"])
        assert number is not None
        assert number.mean == row["mean"]


def test_words_of_the_protocol_choose_between_two_numbers() -> None:
    table = load(PUBLISHED, "bdb_table1")
    detected = table.find(method="BDB", dataset="CUHK03-NP: detected", metric="mAP")
    labeled = table.find(method="BDB", dataset="CUHK03-NP: labeled", metric="mAP")
    assert detected is not None
    assert labeled is not None
    assert (detected.mean, labeled.mean) == ("69.3", "71.7")


def test_two_numbers_are_an_error_that_shows_how_to_name_one() -> None:
    with pytest.raises(
        PublishedError, match=r"2 numbers for mAP on 'CUHK03-NP'.*as in 'CUHK03-NP: (labeled|detected)'"
    ):
        load(PUBLISHED, "bdb_table1").find(method="BDB", dataset="CUHK03-NP", metric="mAP")


def test_an_unknown_method_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(PublishedError, match=r"no method 'BDB\+Cut'. Did you mean 'BDB \+ Cut'\?"):
        load(PUBLISHED, "bdb_table2").find(method="BDB+Cut", dataset="Market-1501", metric="mAP")


def test_an_unknown_data_set_is_an_error_that_lists_those_there_are() -> None:
    with pytest.raises(
        PublishedError, match=r"no data set 'Market1501'. Did you mean 'Market-1501'\? It has: Market-1501"
    ):
        load(PUBLISHED, "bdb_table2").metrics("Market1501")


def test_a_dash_of_the_paper_is_none_and_a_hole_is_an_error(tmp_path: Path) -> None:
    lines = ["P,T 1,A,single-query,x,,,mAP,1.0,,", "P,T 1,A,single-query,y,,,Rank-1,2.0,,"]
    assert written(tmp_path, lines, dashes=2).find(method="x", dataset="A", metric="Rank-1") is None
    with pytest.raises(PublishedError, match=r"'x' has no Rank-1 on 'A', and by index.csv the paper prints no dash"):
        written(tmp_path, lines).find(method="x", dataset="A", metric="Rank-1")


def test_metrics_protocols_and_reference_come_in_the_order_of_the_file() -> None:
    table = load(PUBLISHED, "bdb_table1")
    assert table.metrics("Market-1501") == ("Rank-1", "mAP")
    assert table.protocols("CUHK03-NP") == ("single-query; 767/700 labeled", "single-query; 767/700 detected")
    assert (table.reference("MGN"), table.reference("BDB"), table.reference("nobody")) == ("[58]", "", "")


def test_several_tables_are_read_as_one_and_a_row_says_which_it_is_of() -> None:
    table = load(PUBLISHED, "bdb_table1+han_tableii+esnet_tablei")
    assert table.sources == ("BDB, Table 1", "HAN, Table II", "ES-Net, Table I")
    for stem, method in (("bdb_table1", "BDB"), ("han_tableii", "Ours"), ("esnet_tablei", "ES-Net(Ours)")):
        alone = load(PUBLISHED, stem)
        number = alone.find(method=method, dataset="Market-1501", metric="mAP")
        found = table.find(method=f"{stem}: {method}", dataset="Market-1501", metric="mAP")
        assert number is not None
        assert found is not None
        assert found.mean == number.mean
        assert table.reference(f"{stem}: {method}") == alone.sources[0]
    with pytest.raises(PublishedError, match="no method 'BDB'"):
        table.find(method="BDB", dataset="Market-1501", metric="mAP")


def test_among_several_tables_a_hole_is_still_an_error_where_its_own_has_no_dash() -> None:
    """Only ES-Net's table has dashes, for SVDNet on MSMT17; HAN's has no number there and none."""
    table = load(PUBLISHED, "han_tableii+esnet_tablei")
    assert table.find(method="esnet_tablei: SVDNet", dataset="MSMT17", metric="mAP") is None
    with pytest.raises(PublishedError, match=r"'han_tableii: Ours' has no mAP on 'MSMT17'"):
        table.find(method="han_tableii: Ours", dataset="MSMT17", metric="mAP")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("P,T,A,q,x,,,mAP,8o.1,,", "own.csv, line 2: mean is '8o.1', expected a number"),
        ("P,T,A,q,x,,,mAP,,,", "own.csv, line 2: mean is '', expected a number"),
        ("P,T,A,q,x,,,mAP,80.1,two,", "own.csv, line 2: std is 'two', expected a number"),
    ],
)
def test_a_value_that_is_no_number_is_an_error_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(PublishedError, match=message):
        written(tmp_path, [line])


def test_files_that_cannot_be_read_are_errors(tmp_path: Path) -> None:
    with pytest.raises(PublishedError, match=r"no published table .*bdb_table22.csv. Did you mean 'bdb_table2'\?"):
        load(PUBLISHED, "bdb_table22")
    (tmp_path / "own.csv").write_text("method,mean\nx,1\n")
    with pytest.raises(PublishedError, match="the columns are"):
        load(tmp_path, "own")
    shutil.copy(PUBLISHED / "bdb_table2.csv", tmp_path)
    (tmp_path / "index.csv").write_text("file,dash_cells_omitted\n")
    with pytest.raises(PublishedError, match=r"no line for bdb_table2\.csv"):
        load(tmp_path, "bdb_table2")
    with pytest.raises(PublishedError, match="no rows"):
        written(tmp_path, [])
