"""Statistics of data sets, counted in their manifests."""

from collections.abc import Callable

import pandas as pd

_TRAIN, _QUERY, _GALLERY = ["train"], ["query", "test"], ["gallery", "test"]


def _images(*splits: str) -> Callable[[pd.DataFrame], int]:
    return lambda manifest: int(manifest["split"].isin(splits).sum())


def _identities(*splits: str) -> Callable[[pd.DataFrame], int]:
    """Those above 0: junk and distractors without a name of their own are nobody."""
    return lambda manifest: int(
        manifest.loc[manifest["split"].isin(splits) & (manifest["identity"] > 0), "identity"].nunique()
    )


_ALL, _TEST = ("train", "query", "gallery", "test"), ("query", "gallery", "test")
_COUNTED: dict[str, Callable[[pd.DataFrame], int]] = {
    **dict.fromkeys(("images", "bounding_boxes"), _images(*_ALL)),
    **dict.fromkeys(("identities", "classes"), _identities(*_ALL)),
    "cameras": lambda manifest: int(manifest.loc[manifest["camera"] > 0, "camera"].nunique()),
    **dict.fromkeys(("train_images", "training_images"), _images(*_TRAIN)),
    **dict.fromkeys(("train_ids", "training_classes"), _identities(*_TRAIN)),
    "testing_images": _images(*_TEST),
    **dict.fromkeys(("test_ids", "testing_classes"), _identities(*_TEST)),
    "query_images": _images(*_QUERY),
    **dict.fromkeys(("gallery_images", "test_images"), _images(*_GALLERY)),  # re-ID calls its gallery so
}


def count(manifest: pd.DataFrame, measures: tuple[str, ...]) -> dict[str, int]:
    """What is asked for of a data set.

    Images are rows of the manifest, junk and distractors included; identities those above 0. What papers call the test
    images is the gallery in person re-identification (`test_images`), and query and gallery together in image retrieval
    (`testing_images`).
    """
    return {name: _COUNTED[name](manifest) for name in measures}
