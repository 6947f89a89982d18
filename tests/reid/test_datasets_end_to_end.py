"""A miniature of every data set, from its own layout through prepare, split and an epoch to scores by its own rule."""

from pathlib import Path

import pytest

from reid import methods
from reid.config import Augment, Recipe, Sampler, Schedule, TrialConfig
from reid.data import manifest
from reid.data.archives import Limits
from reid.data.dataset import ReidData
from reid.data.decode import Fit
from reid.data.pack import pack
from reid.data.readers import reader, readers, unpack
from reid.data.split import make_split
from reid.methods.base import OWN
from reid.train import train
from tests.reid.data import miniatures

KEYS = sorted(set(readers()) - {"synthetic"})
PADDED = ("cub200", "cub200_cropped", "sop", "inshop")


def prepared(key: str, root: Path, *, handed_out: bool) -> ReidData:
    raw, folder = root / "raw", root / "data" / key
    if handed_out:
        miniatures.write_raw(key, raw)
        assert unpack(key, raw, raw / "unpacked", limits=Limits(), progress=lambda done, total: None)
        raw = raw / "unpacked"
    else:
        miniatures.write(key, raw)
    fit: Fit = "pad" if key in PADDED else "stretch"
    size = recipe(key).image_size
    pack(raw, reader(key).read(raw), folder, image_size=size, fit=fit, workers=1, max_pixels=10_000)
    table = manifest.read(folder / "manifest.parquet")
    make_split(table, val_fraction=0.34, seed=0, rule=reader(key).rule).save(folder / "split.json")
    return ReidData.load(folder)


def recipe(key: str) -> Recipe:
    """Padded sets are trained on windows of a square, as in BDB's image retrieval."""
    return Recipe(
        backbone="resnet10_w16",
        weights=None,
        image_size=(64, 64) if key in PADDED else (64, 32),
        sampler=Sampler(identities=2, images=2),
        augment=Augment(crop=(56, 56) if key in PADDED else None),
        schedule=Schedule(epochs=1),
        protocol=Recipe().protocol.resolved(reader(key).rule, reader(key).ranks),
    )


@pytest.mark.parametrize("evaluate_on", ["test", "val"])
@pytest.mark.parametrize(
    ("key", "handed_out"), [*((key, False) for key in KEYS), ("cuhk03_detected", True), ("cuhk03_labeled", True)]
)
def test_a_data_set_trains_and_is_scored_by_its_own_rule(
    key: str, handed_out: bool, evaluate_on: str, tmp_path: Path
) -> None:
    data, source = prepared(key, tmp_path, handed_out=handed_out), reader(key)
    model = methods.config("baseline")
    config = TrialConfig(method="baseline", model=model, recipe=recipe(key), evaluate_on=evaluate_on)  # type: ignore[arg-type]
    result = train(config, data, lambda metrics: None)
    word = "Rank-" if source.rule in ("cross_camera", "one_shot") else "Recall@"
    expected = {"mAP", "mINP", "num_valid", "num_skipped", *(f"{word}{rank}" for rank in source.ranks)}
    assert set(result.metrics) == expected
    assert 0 < result.metrics["mAP"] <= 1
    assert result.metrics["num_valid"] > 0
    assert result.metrics["num_skipped"] == 0
    assert result.retrieval[OWN].protocol == config.recipe.protocol
