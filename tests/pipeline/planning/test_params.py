"""What is wrong in params.yaml is said in one line: the dotted path, what is allowed, the nearest match."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.planning.params import Packing, Params, ParamsError, load
from pipeline.planning.shares import Share, Shares
from pipeline.planning.strict import Section
from reid.data.readers import readers
from reid.data.synthetic import SyntheticConfig

ROOT = Path(__file__).parents[3]
OURS = (ROOT / "params.yaml").read_text()
TEXT = """
profile: demo
datasets: [synthetic]
experiments: [bdb_table1, bdb_table2, bdb_block_height]
seeds: [0, 1, 2]
prepare:
  root: null
  image_size: [384, 128]
  by_dataset: {}
  skip_bad: false
  allow_withdrawn: false
  max_pixels: 50000000
  workers: null
  archives:
    members: 1000000
    gigabytes: 64
    file_gigabytes: 8
    ratio: 50
  synthetic:
    cameras: 6
split:
  val_fraction: 0.2
  seed: 0
sweep:
  store: results/trials
  data: null
  cache: ~/.cache/reid
  resources:
    cpus: 1
    gpus: 0
    processes: 1
  resources_by_experiment: {}
  concurrent: null
  checkpoint_epochs: 5
  trial_minutes: null
  silent_minutes: 60
  max_failures: 2
  ask_above_hours: 24
tracking:
  uri: null
  experiment: reid
  ui: "http://127.0.0.1:5000"
report:
  images: auto
profiles:
  demo:
    overrides:
      recipe.weights: null
      recipe.schedule.epochs: 30
      recipe.schedule.time_scale: 0.1
    methods:
      bdb:
        recipe.schedule.peak_lr: 0.01
        model.rh: 0.5
    datasets: {}
  paper:
    overrides: {}
    methods: {}
    datasets: {}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "params.yaml"
    path.write_text(text)
    return path


def problems(folder: Path, *edits: tuple[str, str]) -> tuple[str, ...]:
    """The lines that params.yaml is answered with after some replacements, each of which must apply."""
    text = TEXT
    for old, new in edits:
        assert old in text, f"params.yaml no longer has {old!r}"
        text = text.replace(old, new, 1)
    with pytest.raises(ParamsError) as caught:
        load(written(folder, text))
    assert str(caught.value) == "\n".join(caught.value.problems)
    assert not any("\n" in line for line in caught.value.problems)
    return caught.value.problems


def test_a_right_file_is_read_as_it_is(tmp_path: Path) -> None:
    params = load(written(tmp_path, TEXT))
    assert (params.profile, params.datasets, params.seeds) == ("demo", ("synthetic",), (0, 1, 2))
    assert params.prepare.image_size == (384, 128)
    assert params.prepare.synthetic == SyntheticConfig(cameras=6)
    assert params.shares() == Shares(Share(cpus=1, gpus=0.0, processes=1), {})
    assert params.profiles["demo"].overrides["recipe.schedule.epochs"] == 30
    assert params.profiles["demo"].methods == {"bdb": {"recipe.schedule.peak_lr": 0.01, "model.rh": 0.5}}


def test_a_data_set_is_packed_as_is_said_of_it_or_like_the_rest(tmp_path: Path) -> None:
    packing = "  by_dataset:\n    cub200: {image_size: [256, 256], fit: pad}"
    prepare = load(written(tmp_path, TEXT.replace("  by_dataset: {}", packing))).prepare
    assert prepare.packing("cub200") == Packing(image_size=(256, 256), fit="pad")
    assert prepare.packing("cub200_cropped") == Packing(image_size=(384, 128), fit="stretch")


def test_the_retrieval_sets_are_packed_and_shown_as_bdb_s_code_has_them() -> None:
    """BDB's code pads CUB-200-2011, In-Shop and SOP to a square, but not CARS196; training is on windows of 224."""
    params = load(ROOT / "params.yaml")
    sets = ("cub200", "cub200_cropped", "cars196", "cars196_cropped", "sop", "inshop")
    for dataset in sets:
        assert params.prepare.packing(dataset).image_size == (256, 256)
        assert (params.prepare.packing(dataset).fit == "stretch") == dataset.startswith("cars196")
        assert params.profiles["paper"].datasets[dataset] == {
            "recipe.image_size": [256, 256],
            "recipe.augment.crop": [224, 224],
            "recipe.augment.random_erasing": 0.5,
        }


def test_a_trial_of_the_paper_profile_is_not_given_enlarged_or_squeezed_images() -> None:
    params = load(ROOT / "params.yaml")
    for dataset, overrides in params.profiles["paper"].datasets.items():
        assert tuple(overrides["recipe.image_size"]) == params.prepare.packing(dataset).image_size


def test_the_file_in_the_repository_is_right_and_complete() -> None:
    params = load(ROOT / "params.yaml")
    assert set(params.profiles) >= {"demo", "paper"}
    drawn = {item.name for item in dataclasses.fields(SyntheticConfig)}
    assert drawn <= set(re.findall(r"^    (\w+):", OURS.split("  synthetic:")[1].split("\nsplit:")[0], re.MULTILINE))


def test_a_newcomer_finds_an_explanation_in_most_lines_of_it() -> None:
    lines = [line for line in OURS.splitlines() if re.match(r"^ *[\w.]+:", line)]
    assert sum("#" in line for line in lines) > len(lines) / 2
    top = [line for line in lines if re.match(r"^\w", line) and not line.startswith("profiles:")]
    assert all("#" in line for line in top)


def test_a_section_has_its_stage_s_name() -> None:
    """DVC tracks sections by stage."""
    sections = {name for name, item in Params.model_fields.items() if issubclass_safely(item.annotation)}
    assert sections == {"prepare", "split", "sweep", "tracking", "report"}


def issubclass_safely(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def test_params_are_frozen() -> None:
    params = load(ROOT / "params.yaml")
    with pytest.raises(ValueError, match="frozen"):
        params.seeds = (1,)


WRONG: dict[str, tuple[str, str, str]] = {
    "unknown key": (
        "  checkpoint_epochs: 5",
        "  checkpoint_epoch: 5",
        "params.yaml: sweep.checkpoint_epoch is unknown; did you mean sweep.checkpoint_epochs?",
    ),
    "unknown section": (
        "\nsweep:",
        "\nsweeep:",
        "params.yaml: sweeep is unknown; did you mean sweep?",
    ),
    "unknown key with no neighbour": (
        "  val_fraction: 0.2",
        "  zzz: 1\n  val_fraction: 0.2",
        "params.yaml: split.zzz is unknown; allowed: val_fraction, seed",
    ),
    "unknown key of the embedded set": (
        "    cameras: 6",
        "    camera: 6",
        "params.yaml: prepare.synthetic.camera is unknown; did you mean prepare.synthetic.cameras?",
    ),
    "missing key": (
        "    cpus: 1\n",
        "",
        "params.yaml: sweep.resources.cpus is missing; allowed: a whole number, 1 or more",
    ),
    "a number as text": (
        "  val_fraction: 0.2",
        '  val_fraction: "0.2"',
        "params.yaml: split.val_fraction is the text '0.2'; allowed: a number, 0.01 to 0.9; take the quotes off",
    ),
    "text for a number": (
        "    cpus: 1",
        "    cpus: one",
        "params.yaml: sweep.resources.cpus is the text 'one'; allowed: a whole number, 1 or more",
    ),
    "a fraction for a whole number": (
        "    cpus: 1",
        "    cpus: 1.5",
        "params.yaml: sweep.resources.cpus is 1.5; allowed: a whole number, 1 or more",
    ),
    "a switch for a number": (
        "  max_failures: 2",
        "  max_failures: true",
        "params.yaml: sweep.max_failures is true; allowed: a whole number, 0 or more",
    ),
    "yes is text in YAML 1.2": (
        "  skip_bad: false",
        "  skip_bad: no",
        "params.yaml: prepare.skip_bad is the text 'no'; allowed: true or false",
    ),
    "out of range": (
        "  val_fraction: 0.2",
        "  val_fraction: 1.5",
        "params.yaml: split.val_fraction is 1.5; allowed: a number, 0.01 to 0.9",
    ),
    "negative": (
        "  checkpoint_epochs: 5",
        "  checkpoint_epochs: -5",
        "params.yaml: sweep.checkpoint_epochs is -5; allowed: a whole number, 1 or more",
    ),
    "no number": (
        "  val_fraction: 0.2",
        "  val_fraction: .nan",
        "params.yaml: split.val_fraction is NaN; allowed: a number, 0.01 to 0.9",
    ),
    "an empty value": (
        "    cpus: 1",
        "    cpus:",
        "params.yaml: sweep.resources.cpus is null; allowed: a whole number, 1 or more",
    ),
    "optional number": (
        "  concurrent: null",
        "  concurrent: 0",
        "params.yaml: sweep.concurrent is 0; allowed: a whole number, 1 or more or null",
    ),
    "a limit of archives": (
        "    ratio: 50",
        "    ratio: 0.5",
        "params.yaml: prepare.archives.ratio is 0.5; allowed: a number, 1 or more",
    ),
    "an unknown limit": (
        "    members: 1000000",
        "    member: 3\n    members: 1000000",
        "params.yaml: prepare.archives.member is unknown; did you mean prepare.archives.members?",
    ),
    "a limit of images": (
        "  max_pixels: 50000000",
        "  max_pixels: 5e7",
        "params.yaml: prepare.max_pixels is 50000000.0; allowed: a whole number, 1 or more",
    ),
    "a packing of an unknown data set": (
        "  by_dataset: {}",
        "  by_dataset:\n    cub20: {image_size: [256, 256], fit: pad}",
        "params.yaml: prepare.by_dataset.cub20 is unknown; did you mean prepare.by_dataset.cub200?",
    ),
    "an unknown fit": (
        "  by_dataset: {}",
        "  by_dataset:\n    cub200: {image_size: [256, 256], fit: padd}",
        "params.yaml: prepare.by_dataset.cub200.fit is the text 'padd'; allowed: stretch, pad; did you mean pad?",
    ),
    "a packing without its fit": (
        "  by_dataset: {}",
        "  by_dataset:\n    cub200: {image_size: [256, 256]}",
        "params.yaml: prepare.by_dataset.cub200.fit is missing; allowed: stretch, pad",
    ),
    "a packing of no size": (
        "  by_dataset: {}",
        "  by_dataset:\n    cub200: {image_size: [256, 0], fit: pad}",
        "params.yaml: prepare.by_dataset.cub200.image_size[1] is 0; allowed: a whole number, 1 or more",
    ),
    "too few in a list": (
        "  image_size: [384, 128]",
        "  image_size: [384]",
        "params.yaml: prepare.image_size[1] is missing; allowed: a whole number, 1 or more",
    ),
    "a wrong one in a list": (
        "  image_size: [384, 128]",
        "  image_size: [384, -128]",
        "params.yaml: prepare.image_size[1] is -128; allowed: a whole number, 1 or more",
    ),
    "a scalar for a list": (
        "seeds: [0, 1, 2]",
        "seeds: 3",
        "params.yaml: seeds is 3; allowed: a list, each a whole number, 0 or more",
    ),
    "an empty list": (
        "seeds: [0, 1, 2]",
        "seeds: []",
        "params.yaml: seeds: nothing is listed; give at least one",
    ),
    "a value twice": (
        "seeds: [0, 1, 2]",
        "seeds: [0, 1, 0]",
        "params.yaml: seeds: 0 is given twice",
    ),
    "a negative seed": (
        "seeds: [0, 1, 2]",
        "seeds: [0, -1]",
        "params.yaml: seeds[1] is -1; allowed: a whole number, 0 or more",
    ),
    "unknown data set": (
        "datasets: [synthetic]",
        "datasets: [syntetic]",
        f"params.yaml: datasets is the text 'syntetic'; allowed: {', '.join(sorted(readers()))}; did you mean "
        "synthetic?",
    ),
    "unknown profile": (
        "profile: demo",
        "profile: dmeo",
        "params.yaml: profile is the text 'dmeo'; allowed: demo, paper; did you mean demo?",
    ),
    "a name that would be a path": (
        "datasets: [synthetic]",
        "datasets: [../synthetic]",
        "params.yaml: datasets[0] is the text '../synthetic'; allowed: 1 to 64 letters, digits, dots, hyphens or "
        "underscores",
    ),
    "a name that ends in a line break": (
        "  experiment: reid",
        '  experiment: "reid\\n"',
        "params.yaml: tracking.experiment is the text 'reid\\n'; allowed: 1 to 64 letters, digits, dots, hyphens or "
        "underscores",
    ),
    "an address that is none": (
        '  ui: "http://127.0.0.1:5000"',
        "  ui: javascript:alert(1)",
        "params.yaml: tracking.ui is the text 'javascript:alert(1)'; allowed: an address that starts with http:// or "
        "https://",
    ),
    "a key twice": (
        "seeds: [0, 1, 2]",
        "seeds: [0, 1, 2]\nseeds: [3]",
        "params.yaml, line 6: the key seeds is given twice",
    ),
    "bad YAML": (
        "seeds: [0, 1, 2]",
        "seeds: [0, 1, 2",
        "params.yaml, line 6: expected ',' or ']', but got ':'",
    ),
    "a tag": (
        "seeds: [0, 1, 2]",
        "seeds: !!python/object/apply:os.system [ls]",
        "params.yaml, line 5: could not determine a constructor for the tag",
    ),
}


@pytest.mark.parametrize(("old", "new", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_is_answered_with_one_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    told = problems(tmp_path, (old, new))
    assert any(line == said or (said.endswith("tag") and line.startswith(said)) for line in told), told
    renamed = any("is unknown" in line for line in told) and any("is missing" in line for line in told)
    assert len(told) == 1 + renamed  # a misspelt key is also a missing one


def test_an_unknown_experiment_is_answered_with_the_nearest(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, ("[bdb_table1, bdb_table2, bdb_block_height]", "[bdb_tabel2]"))
    assert line.startswith("params.yaml: experiments is the text 'bdb_tabel2'; allowed: ")
    assert "bdb_table2" in line
    assert line.endswith("did you mean bdb_table2?")


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    told = problems(tmp_path, ("    cpus: 1", "    cpus: 0"), ("  seed: 0\nsweep", "  seed: -1\nsweep"))
    assert len(told) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "found nothing"),
        ("- 1\n- 2\n", "found no keys"),
        ("just text", "found no keys"),
        ("a: 1\n---\nb: 2", "line 2"),
    ],
)
def test_a_file_without_a_mapping(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ParamsError, match=said):
        load(written(tmp_path, text))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"params\.yaml: no such file"):
        load(tmp_path / "params.yaml")


def test_a_file_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes("# für\n".encode("latin-1"))
    with pytest.raises(ParamsError, match="not UTF-8"):
        load(path)


def test_numbers_are_read_as_dvc_reads_them(tmp_path: Path) -> None:
    text = TEXT.replace("recipe.schedule.time_scale: 0.1", "recipe.schedule.time_scale: 1e-1")
    assert load(written(tmp_path, text)).profiles["demo"].overrides["recipe.schedule.time_scale"] == 0.1


def test_an_error_about_an_address_hides_its_password(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, ('  ui: "http://127.0.0.1:5000"', "  ui: ftp://user:hunter2@host"))
    assert "hunter2" not in line
    assert "tracking.ui is the text 'ftp://***@host'" in line


@pytest.mark.parametrize("place", ["results/trials", "/mnt/lab/trials", "s3://bucket/a/b", "s3://bucket", "gs://b/c"])
def test_a_store_is_a_folder_or_a_url(tmp_path: Path, place: str) -> None:
    text = TEXT.replace("store: results/trials", f"store: {place}").replace("data: null", f"data: {place}")
    sweep = load(written(tmp_path, text)).sweep
    assert (sweep.store, sweep.data, sweep.cache) == (place, place, "~/.cache/reid")


@pytest.mark.parametrize("place", ["ftp://there/trials", "s3:/bucket", "s3://", "file:///mnt/trials", "s3://a b"])
def test_what_is_neither_is_refused(tmp_path: Path, place: str) -> None:
    with pytest.raises(ParamsError, match=r"sweep\.store is .*a folder, or an address that starts with s3:// or gs://"):
        load(written(tmp_path, TEXT.replace("store: results/trials", f"store: {place!r}")))
