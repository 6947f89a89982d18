"""A data set small enough to train on in a second: each identity is a colour, each camera a brightness."""

import numpy as np
import pandas as pd

from reid.data.dataset import ReidData
from reid.data.split import make_split


def tiny_data() -> ReidData:
    """12 training and 12 test identities, 2 cameras, 3 images each, 64 x 32 pixels."""
    manifest = _manifest(12, 2, 3)
    generator = np.random.default_rng(0)
    colours = generator.uniform(40, 215, (25, 2, 3))  # top and bottom half of an identity
    images = np.empty((len(manifest), 64, 32, 3), np.uint8)
    for row, (identity, camera) in enumerate(zip(manifest["identity"], manifest["camera"], strict=True)):
        top, bottom = colours[identity] * (0.8 + 0.2 * camera)
        image = np.concatenate([np.broadcast_to(top, (32, 32, 3)), np.broadcast_to(bottom, (32, 32, 3))])
        images[row] = np.clip(image + generator.normal(0, 12, image.shape), 0, 255)
    return ReidData(
        name="tiny",
        images=images,
        identities=manifest["identity"].to_numpy(np.int64),
        cameras=manifest["camera"].to_numpy(np.int64),
        splits=make_split(manifest, val_fraction=0.25, seed=0),
        digest="0" * 64,
    )


def _manifest(identities: int, cameras: int, images: int) -> pd.DataFrame:
    rows = [
        {"identity": identity, "camera": camera, "split": _part(identity, image, identities)}
        for identity in range(1, 2 * identities + 1)
        for camera in range(1, cameras + 1)
        for image in range(images)
    ]
    return pd.DataFrame(rows)


def _part(identity: int, image: int, identities: int) -> str:
    if identity <= identities:
        return "train"
    return "query" if image == 0 else "gallery"
