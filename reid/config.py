"""The configuration of one trial, as frozen values that check themselves.

A trial is a pure function of a `TrialConfig`, a data set and the code, so everything that moves a number is here and
nothing else is. Values are checked when they are made: a number outside its range never reaches a GPU.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

# Of RGB values in 0 to 1: what images are normalised with before every network.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Range:
    """The documented range of a number, both ends included; it is also the widest a search may ask for."""

    low: float
    high: float = float("inf")

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}" if self.high != float("inf") else f"{self.low:g} or more"

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Let pydantic, where a caller uses it, enforce the range and name the path of an offender."""
        schema = handler(source)
        limits = {"ge": self.low} if self.high == float("inf") else {"ge": self.low, "le": self.high}
        return schema | {name: source(limit) for name, limit in limits.items()}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of every configuration: frozen, keyword-only, and checked against its annotations' ranges and choices.

    Raises:
        ValueError: a value is outside its `Range` or not one of its `Literal` choices; the message names the field.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

    def __post_init__(self) -> None:
        for name, hint in _hints(type(self)).items():  # type: ignore[arg-type]  # a class is hashable
            _check(f"{type(self).__name__}.{name}", getattr(self, name), hint)


@functools.cache
def _hints(kind: type[Settings]) -> dict[str, Any]:
    """The annotation of each field, resolved once: a plan makes tens of thousands of these values."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _check(name: str, value: object, hint: Any) -> None:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        for limits in (extra for extra in arguments[1:] if isinstance(extra, Range)):
            if isinstance(value, (int, float)) and not limits.low <= value <= limits.high:
                raise ValueError(f"{name} is {value!r}, allowed: {limits}")
        _check(name, value, arguments[0])
    elif origin is Literal and value not in arguments:
        raise ValueError(f"{name} is {value!r}, allowed: {', '.join(map(str, arguments))}")
    elif origin in (typing.Union, types.UnionType):
        for option in arguments if value is not None else ():
            _check(name, value, option)
    elif origin is tuple and isinstance(value, tuple):
        inner = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        for item, hint_of_item in zip(value, inner, strict=True):
            _check(name, item, hint_of_item)


Fraction = Annotated[float, Range(0.0, 1.0)]
Count = Annotated[int, Range(1)]


@dataclass(frozen=True, kw_only=True)
class Sampler(Settings):
    """P x K identity batches. `ids_once`: an epoch shows each identity once; `images_once`: each image once.

    The two differ about eightfold in length on Market-1501 (methods.md 1.3), so the choice is part of a trial.
    """

    identities: Count = 32
    images: Count = 4
    epoch: Literal["ids_once", "images_once"] = "ids_once"


@dataclass(frozen=True, kw_only=True)
class Augment(Settings):
    """Training-time augmentation, each as the probability of applying it to an image (0 is off).

    `cutout`: one `cutout_size` x `cutout_size` square (BDB's code: p = 0.5, 64 pixels at 384 x 128). `cutout_at`: all
    of it `inside` the image, as in that code, or `clipped` at the border with its centre anywhere (DeVries and Taylor,
    who cut out of every image).
    `random_erasing`: Zhong et al., area 2 to 40 %, aspect 0.3 to 1/0.3. Both fill with the mean colour.
    `crop_padding`: pad by that many pixels and crop back at random (Bag of Tricks: 10); 0 is off. `crop`: height and
    width of the window that is cut out at random, of a smaller size than images have at test (BDB on image retrieval:
    224 x 224 of 256 x 256); None is the whole image.
    """

    flip: Fraction = 0.5
    crop_padding: Annotated[int, Range(0)] = 0
    crop: tuple[Count, Count] | None = None
    cutout: Fraction = 0.0
    cutout_size: Count = 64
    cutout_at: Literal["inside", "clipped"] = "inside"
    random_erasing: Fraction = 0.0


@dataclass(frozen=True, kw_only=True)
class Optimiser(Settings):
    """Adam with L2 decay (not AdamW) or SGD; one learning rate for all parameters.

    `reset`: forget momentum and moments at the start of every epoch, as HAN's code does by making a new optimiser.
    """

    name: Literal["adam", "sgd"] = "adam"
    weight_decay: Annotated[float, Range(0.0)] = 5e-4
    momentum: Annotated[float, Range(0.0, 1.0)] = 0.9
    nesterov: bool = True
    reset: bool = False


@dataclass(frozen=True, kw_only=True)
class Schedule(Settings):
    """A published learning-rate schedule for `epochs` epochs; the curves are in `reid.schedules`.

    `peak_lr` replaces the published peak and scales the whole curve. `time_scale` squeezes or stretches it in time:
    with 0.1 the milestones of S1 lie at epochs 5, 20 and 30 instead of 50, 200 and 300.
    """

    name: Literal["S1", "S2", "S2_flat", "S2_eq6", "S3", "S4"] = "S1"
    epochs: Count = 400
    peak_lr: Annotated[float, Range(0.0)] = 1e-3
    time_scale: Annotated[float, Range(1e-4)] = 1.0


# Who is ranked against whom; a data set says which of these is its own.
# cross_camera: queries against a gallery, without gallery images of the query's identity from the query's camera.
# query_gallery: the same, cameras not looked at. leave_one_out: every test image against all the others.
# one_shot: one image of each identity, drawn at random, is the gallery and the rest are queries; the mean over draws.
Rule = Literal["cross_camera", "query_gallery", "leave_one_out", "one_shot"]
BOTH_PARTS: tuple[Rule, ...] = ("leave_one_out", "one_shot")  # every image is in the query and in the gallery
Ranks = tuple[Count, ...]


@dataclass(frozen=True, kw_only=True)
class Protocol(Settings):
    """How a ranking is scored: everything that moves the number, so that it can be printed under the table.

    `flip` averages the features of image and mirror, `normalise` divides features by their Euclidean norm.
    `ap`: `hits` (mean precision at the hits), `trapezoid` (the official Market-1501 script), `cut50` (BDB's code: hits
    in the first 50 over all positives). `ties` among equal distances: `expected` takes the expectation over tied
    orders, `pessimistic` puts every wrong image first; index order never decides.
    `rule` and `ranks`, the K of Rank-K or Recall@K: None takes those of the data set. `draws` and `draw_seed` are those
    of rule `one_shot`. `rerank`: order by k-reciprocal neighbours (Zhong et al., CVPR 2017), with its k1, k2 and, as
    `rerank_weight`, lambda; none of the five papers' own results is re-ranked.
    """

    distance: Literal["euclidean", "cosine"] = "euclidean"
    normalise: bool = False
    flip: bool = False
    ap: Literal["hits", "trapezoid", "cut50"] = "hits"
    ties: Literal["expected", "pessimistic"] = "expected"
    rule: Rule | None = None
    ranks: Ranks | None = None
    draws: Count = 10
    draw_seed: Annotated[int, Range(0)] = 0
    rerank: bool = False
    rerank_k1: Count = 20
    rerank_k2: Count = 6
    rerank_weight: Fraction = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rerank and self.rule == "leave_one_out":
            raise ValueError(
                "Protocol.rerank is for queries beside a gallery, and rule leave_one_out has none: turn it off"
            )

    def resolved(self, rule: Rule = "cross_camera", ranks: Ranks = (1, 5, 10)) -> "Protocol":
        """This protocol with what it leaves open filled in; by default as Market-1501 has it."""
        return dataclasses.replace(self, rule=self.rule or rule, ranks=self.ranks or ranks)


@dataclass(frozen=True, kw_only=True)
class Recipe(Settings):
    """What surrounds a method while it trains; each method's published recipe is `RECIPE` in its own file.

    `weights` of the trunk: `imagenet`, a file, or null for none. `classifier_std`: initial standard deviation of the
    classifiers' weights; null keeps the method's own initialisation, which may count on a pretrained trunk: from
    scratch, BDB's large initial logits are fitted by the heads alone, and the trunk learns little.
    """

    backbone: str = "resnet50"
    weights: str | None = "imagenet"
    classifier_std: Annotated[float, Range(0.0, 1.0)] | None = None
    image_size: tuple[Count, Count] = (384, 128)
    sampler: Sampler = Sampler()
    augment: Augment = Augment()
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = Schedule()
    precision: Literal["fp32", "bf16"] = "fp32"
    protocol: Protocol = Protocol()

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(crop > side for crop, side in zip(self.training_size, self.image_size, strict=True)):
            raise ValueError(
                f"Recipe.augment.crop is {self.augment.crop}, which does not fit into images of {self.image_size}"
            )

    @property
    def training_size(self) -> tuple[int, int]:
        """Height and width of the images that the network is trained on."""
        return self.augment.crop or self.image_size


@dataclass(frozen=True, kw_only=True)
class TrialConfig(Settings):
    """One trial, resolved: no defaults are left to look up.

    `model` is the method's own frozen `Config`. `evaluate_on`: `val` trains without the held-out identities and scores
    on them (searches); `test` trains on every training identity and scores the test split once, at the end.
    """

    method: str
    model: Settings
    recipe: Recipe
    evaluate_on: Literal["val", "test"] = "test"
    seed: Annotated[int, Range(0)] = 0


def to_dict(settings: Settings) -> dict[str, Any]:
    """The settings as plain JSON types, nested, every field present: what a trial's key hashes."""
    return dataclasses.asdict(settings)


def flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of every leaf, in order: `("recipe.sampler.images", 4)`."""
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from flatten(value, f"{path}.")
        else:
            yield path, value
