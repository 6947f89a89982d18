"""From a trial's network and a data set to strips of images."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from reid import methods
from reid.config import Settings, TrialConfig, to_dict
from reid.data.augment import to_float
from reid.data.dataset import ReidData
from reid.evaluation import Embeddings, evaluate
from reid.methods.base import Method
from reid.train import build_method, embed, trained
from reid.visualize import erasers, images, maps
from reid.visualize.images import Pixels
from reid.visualize.lists import Parts, ranking_lists
from reid.visualize.picture import Picture, What

Rows = NDArray[np.int64]

IMAGE = "image"  # under the image that a strip is about
# That attend, as shares of height and width: on a person, between the shoulders, at the knees, and the background.
_PLACES = {"body": (0.28, 0.5), "legs": (0.72, 0.5), "corner": (0.06, 0.08)}
_TOP = 10  # of a ranking list
_BATCH = 4
_RELATED = 8  # positions that are marked as those attended to most
_OF_AN_IDENTITY = 4  # training images in a batch: an identity needs two for a pair of positives


@dataclass(frozen=True, kw_only=True, eq=False)
class Tile:
    """One small image, uint8 [h, w, 3], the words under it, and for one of a gallery whether it is right."""

    image: Pixels
    caption: str
    right: bool | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Strip:
    """A row of tiles of one size. `number`: of the query among all queries, or of the training identity.

    `average_precision`: of a ranking's query, by the protocol that it is ranked by.
    """

    number: int
    tiles: tuple[Tile, ...]
    average_precision: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Scene:
    """What is drawn from: a network in evaluation mode, the rows of all queries and of the gallery, and the `numbers`
    of the queries that are drawn."""

    method: Method
    config: TrialConfig
    data: ReidData
    picture: Picture
    queries: Rows
    gallery: Rows
    numbers: Rows

    def tile(self, row: int) -> Pixels:
        """An image of the data set as it is shown."""
        return images.tile(self.data.images[row], self.picture.shown)

    def inputs(self, rows: Rows) -> Tensor:
        """Images of the data set as the network sees them."""
        return _inputs(self.method, self.config, self.data, rows)

    def embeddings(self) -> tuple[Embeddings, Embeddings]:
        """What is ranked, of all queries and of the gallery."""
        found = []
        for rows in (self.queries, self.gallery):
            features = embed(self.method, self.data.images, rows, recipe=self.config.recipe)[self.picture.embedding]
            found.append(_labelled(self.data, rows, features))
        return found[0], found[1]

    def batches(self) -> Iterator[Rows]:
        """Some of the numbers at a time, so that graphs stay small."""
        for start in range(0, len(self.numbers), _BATCH):
            yield self.numbers[start : start + _BATCH]


def needs_network(config: TrialConfig, what: What) -> bool:
    """Whether a picture is of a trained network; erasers that draw their places at random need none."""
    if what != "erasers":
        return True
    return _looks_at_images(config.method, config.model)


@functools.cache
def _looks_at_images(method: str, model: Settings) -> bool:
    with FakeTensorMode(), torch.random.fork_rng(devices=[]):
        return erasers.looks_at_images(methods.build(method, num_ids=2, backbone="resnet10_w16", **to_dict(model)))


def draw(
    config: TrialConfig, data: ReidData, picture: Picture, *, weights: Path | None, device: str = "cpu"
) -> list[Strip]:
    """Draw what a trial's network does with some images of a data set; the same arguments give the same pixels.

    Args:
        config: the trial's, with the protocol to rank by.
        data: of the queries and the gallery; for `erasers`, whose training images are shown.
        picture: what to draw.
        weights: of the network; None where `needs_network` says that there need not be one.
        device: a torch device.

    Raises:
        ValueError: the file is damaged, or there is nothing to draw: no attention, or no eraser.
    """
    if weights is not None:
        method = trained(config, weights, device=device)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            method = build_method(config, data.training("test").num_ids).to(device)
    if picture.what == "erasers":
        return _erasers(method, config, data, picture)
    queries, gallery = data.scored("test")
    query, others = (_labelled(data, rows, np.empty((len(rows), 0))) for rows in (queries, gallery))
    parts = Parts.of(query, others, config.recipe.protocol)
    scene = _Scene(
        method=method.eval().requires_grad_(False),
        config=config,
        data=data,
        picture=picture,
        queries=queries,
        gallery=gallery,
        numbers=at_equal_steps(parts.numbers[parts.matches.valid], picture.count),
    )
    painters = {"ranking": _ranking, "activation": _activation, "cgram": _cg_ram, "attention": _attention}
    return painters[picture.what](scene)


def at_equal_steps(values: Rows, count: int) -> Rows:
    """So many of the values, the first and the last among them; all if they are fewer."""
    places = np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(np.int64)
    chosen: Rows = values[places]
    return chosen


def _ranking(scene: _Scene) -> list[Strip]:
    query, gallery = scene.embeddings()
    protocol = scene.config.recipe.protocol
    scores = evaluate(query, gallery, protocol).average_precision
    lists = ranking_lists(query, gallery, protocol, scene.numbers, count=_TOP)
    return [
        Strip(
            number=int(number),
            average_precision=float(scores[number]),
            tiles=(
                Tile(image=scene.tile(scene.queries[number]), caption=IMAGE),
                *(_ranked(scene, number, row, str(rank)) for rank, row in enumerate(scene.gallery[nearest], 1)),
            ),
        )
        for number, nearest in zip(scene.numbers, lists, strict=True)
    ]


def _ranked(scene: _Scene, number: int, row: int, caption: str) -> Tile:
    right = scene.data.identities[row] == scene.data.identities[scene.queries[number]]
    return Tile(image=scene.tile(row), caption=caption, right=bool(right))


def _activation(scene: _Scene) -> list[Strip]:
    strips = []
    for numbers in scene.batches():
        with torch.no_grad():
            seen = maps.branch_maps(scene.method, scene.inputs(scene.queries[numbers]))
        levels = {name: maps.activation(values).cpu().numpy() for name, values in seen.items()}
        for place, number in enumerate(numbers):
            base = scene.tile(scene.queries[number])
            heated = [Tile(image=images.heated(base, level[place]), caption=name) for name, level in levels.items()]
            strips.append(Strip(number=int(number), tiles=(Tile(image=base, caption=IMAGE), *heated)))
    return strips


def _cg_ram(scene: _Scene) -> list[Strip]:
    protocol = scene.config.recipe.protocol
    lists = ranking_lists(*scene.embeddings(), protocol, scene.numbers, count=1)
    nearest = dict(zip(scene.numbers.tolist(), (scene.gallery[rows[0]] for rows in lists), strict=True))
    strips = []
    for numbers in scene.batches():
        rows = np.array([nearest[number] for number in numbers.tolist()])
        pairs = scene.inputs(scene.queries[numbers]), scene.inputs(rows)
        levels = maps.cg_ram_pairs(scene.method, *pairs, flip=protocol.flip)
        for place, number in enumerate(numbers):
            pair = (
                Tile(image=scene.tile(scene.queries[number]), caption=IMAGE),
                _ranked(scene, number, rows[place], "nearest"),
            )
            tiles = []
            for side, tile in enumerate(pair):
                tiles.append(tile)
                for name, sides in levels.items():
                    tiles.append(Tile(image=images.heated(tile.image, sides[side][place].cpu().numpy()), caption=name))
            strips.append(Strip(number=int(number), tiles=tuple(tiles)))
    return strips


def _attention(scene: _Scene) -> list[Strip]:
    strips = []
    for numbers in scene.batches():
        layers = maps.attention(scene.method, scene.inputs(scene.queries[numbers]))
        if not layers:
            raise ValueError(f"{scene.config.method}: this network has no second-order attention to draw")
        for place, number in enumerate(numbers):
            base = scene.tile(scene.queries[number])
            tiles = [Tile(image=base, caption=IMAGE)]
            tiles += [_attended(base, weights[place], size, name) for weights, size in layers for name in _PLACES]
            strips.append(Strip(number=int(number), tiles=tuple(tiles)))
    return strips


def _attended(base: Pixels, weights: Tensor, size: tuple[int, int], name: str) -> Tile:
    """Where a position attends to, coloured from its least to its greatest weight, for both may be near the mean.

    The caption has the greatest weight, as a multiple of the mean.
    """
    point = int(_PLACES[name][0] * size[0]), int(_PLACES[name][1] * size[1])
    row = weights[point[0] * size[1] + point[1]].cpu().numpy()
    span = row.max() - row.min()
    level = ((row - row.min()) / (span if span > 0 else 1)).reshape(size)
    most = [divmod(int(place), size[1]) for place in (-row).argsort(kind="stable")[:_RELATED]]
    tile = images.marked(images.heated(base, level), point, most, size)
    return Tile(image=tile, caption=f"{name} {row.max() * len(row):.3g}×")


def _erasers(method: Method, config: TrialConfig, data: ReidData, picture: Picture) -> list[Strip]:
    rows, labels = _some_of_each(data, picture.count)
    device = next(method.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        found = erasers.masks(method, _inputs(method, config, data, rows), torch.from_numpy(labels).to(device))
    if not found:
        pixels = torch.from_numpy(data.images[rows])
        found = erasers.augmentations(pixels, config.recipe, torch.Generator().manual_seed(0))
    if not found:
        raise ValueError(f"{config.method}: neither this network nor its augmentation erases anything")
    strips = []
    for place in np.unique(labels, return_index=True)[1]:
        base = images.tile(data.images[rows[place]], picture.shown)
        tiles = [
            Tile(image=images.erased(base, mask[place].cpu().numpy()), caption=name) for name, mask in found.items()
        ]
        strips.append(Strip(number=int(labels[place]), tiles=(Tile(image=base, caption=IMAGE), *tiles)))
    return strips


def _some_of_each(data: ReidData, count: int) -> tuple[Rows, Rows]:
    """Rows and labels of a few images of some training identities, for a batch as a sampler would make it."""
    training = data.training("test")
    chosen = at_equal_steps(np.arange(training.num_ids), count)
    places = [np.resize(np.flatnonzero(training.labels == label), _OF_AN_IDENTITY) for label in chosen]
    flat = np.concatenate(places)
    return training.rows[flat], training.labels[flat]


def _inputs(method: Method, config: TrialConfig, data: ReidData, rows: Rows) -> Tensor:
    device = next(method.parameters()).device
    return to_float(torch.from_numpy(data.images[rows]).to(device), config.recipe.image_size)


def _labelled(data: ReidData, rows: Rows, features: Tensor | NDArray[np.float64]) -> Embeddings:
    return Embeddings(features, data.identities[rows], data.cameras[rows])
