"""What a column of a table may hold: scores of a ranking, costs of a network, counts of a data set."""

from typing import Literal, get_args

Metric = Literal[
    "Rank-1",
    "Rank-5",
    "Rank-10",
    "Recall@1",
    "Recall@2",
    "Recall@4",
    "Recall@5",
    "Recall@8",
    "Recall@10",
    "Recall@20",
    "Recall@30",
    "Recall@40",
    "Recall@50",
    "Recall@100",
    "Recall@1000",
    "mAP",
    "mINP",
]
Cost = Literal["params_million", "multiply_adds_billion", "inference_ms_per_image"]
# Named as the papers' tables name them; `pipeline.exports.counts` says what is counted.
Count = Literal[
    "images",
    "bounding_boxes",
    "identities",
    "classes",
    "cameras",
    "train_images",
    "training_images",
    "train_ids",
    "training_classes",
    "test_images",
    "testing_images",
    "test_ids",
    "testing_classes",
    "query_images",
    "gallery_images",
]
Column = Literal[Metric, Cost, Count]

SCORES: tuple[str, ...] = get_args(Metric)
COSTS: tuple[str, ...] = get_args(Cost)
COUNTS: tuple[str, ...] = get_args(Count)

# A trial's record has them in other units: the factor, and the name there.
RECORDED = {
    "params_million": (1e-6, "parameters"),
    "multiply_adds_billion": (1e-9, "multiply_adds"),
    "inference_ms_per_image": (1e3, "embed_seconds_per_image"),
}


_WORDS = {
    "params_million": "million parameters",
    "multiply_adds_billion": "billion multiply-adds",
    "inference_ms_per_image": "ms per image",
}


def words(metric: str) -> str:
    """What a column is called in print."""
    return _WORDS.get(metric, metric.replace("_", " "))


def shown(metric: str, value: float) -> float:
    """A stored value in the unit that is printed: scores in percent."""
    return 100 * value if metric in SCORES else value


def printed(metric: str, value: float) -> str:
    """A value in the unit that is printed, with as many digits as tell something."""
    return f"{value:.2f}" if metric in COSTS and metric != "params_million" else f"{value:.1f}"


def varies(metric: str) -> bool:
    """Whether seeds can differ in it; the size of a network is the same for all."""
    return metric not in ("params_million", "multiply_adds_billion")
