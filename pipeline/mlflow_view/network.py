"""A trained network as a folder that is loaded without unpickling: safetensors, and its configuration as JSON.

MLflow loads it by the name of this module (`loader_module`), which runs this repository's code and nothing else.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.planning.keys import config_from_spec
from pipeline.planning.strict import ParamsError
from reid.config import TrialConfig
from reid.methods.base import OWN, Method
from reid.train import embed, trained

WEIGHTS, SPEC = "weights.safetensors", "spec.json"


class Network:
    """A trained network that embeds images.

    Args:
        config: of the trial that trained it.
        method: on the device to use.
    """

    def __init__(self, config: TrialConfig, method: Method) -> None:
        self.config, self.method = config, method

    @property
    def embedding_dim(self) -> int:
        """D of the embeddings."""
        return self.method.embedding_dim

    def predict(self, images: NDArray[np.uint8], params: dict[str, Any] | None = None) -> NDArray[np.float32]:
        """The embeddings by which the trial ranked, float32 [N, D], of RGB images, uint8 [N, H, W, 3], of any size.

        Args:
            images: scaled to the size that the network was trained on.
            params: nothing is asked for; MLflow passes it.
        """
        rows = np.arange(len(images))
        return embed(self.method, images, rows, recipe=self.config.recipe)[OWN].cpu().numpy()


def save(folder: Path, spec: dict[str, Any], weights: Path) -> None:
    """Write a network into a new folder: its trial's `spec`, and the `weights` that training left."""
    folder.mkdir(parents=True)
    (folder / SPEC).write_text(json.dumps(spec, sort_keys=True, indent=1) + "\n")
    shutil.copyfile(weights, folder / WEIGHTS)


def load(folder: Path, device: str = "cpu") -> Network:
    """Read what `save` wrote.

    Raises:
        ValueError: the weights are damaged, or the configuration is of another version of the code.
    """
    try:
        config = config_from_spec(json.loads((folder / SPEC).read_text()))
    except ParamsError as error:
        raise ValueError(f"{folder / SPEC}: {error}; load it with the commit that trained it") from error
    with torch.random.fork_rng(devices=[]):
        return Network(config, trained(config, folder / WEIGHTS, device=device))


def _load_pyfunc(path: str) -> Network:
    """What MLflow calls."""
    return load(Path(path))
