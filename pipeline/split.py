"""The split stage: hold out training identities and lay out query and gallery, in `data/<dataset>/split.json`."""

from pathlib import Path

from pipeline.planning.params import Params
from reid.data import manifest
from reid.data.readers import reader
from reid.data.split import make_split


def run(root: Path, dataset: str, params: Params) -> None:
    """Split one prepared data set of the checkout at `root`.

    Raises:
        FileNotFoundError: it is not prepared.
        ValueError: the fraction holds out or leaves too few identities.
    """
    folder = root / "data" / dataset
    if not (folder / "manifest.parquet").is_file():
        raise FileNotFoundError(f"{folder / 'manifest.parquet'} is missing; run: python -m pipeline prepare {dataset}")
    split = make_split(
        manifest.read(folder / "manifest.parquet"),
        val_fraction=params.split.val_fraction,
        seed=params.split.seed,
        rule=reader(dataset).rule,
    )
    split.save(folder / "split.json")
    print(
        f"{dataset}: {len(split.val_identities)} identities held out ({len(split.val_query)} queries, "
        f"{len(split.val_gallery)} gallery images); "
        f"test {len(split.query)} queries, {len(split.gallery)} gallery images"
    )
