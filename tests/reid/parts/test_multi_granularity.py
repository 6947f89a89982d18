"""Windows against direct pooling of each; the heads of all parts at once against one ordinary head after another."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from reid.parts.heads import BranchOutput
from reid.parts.multi_granularity import check_size, num_parts, window_maxima, window_means
from reid.parts.part_heads import Activation, AveragePool, FeatureFrom, MultiPool, PartHeads, PartLinear, PartNorm

# Rows of a 24-row map, as the paper's six levels cut it: first row, row behind the last.
WINDOWS = [
    *[(0, 24)],
    *[(0, 20), (4, 24)],
    *[(0, 16), (4, 20), (8, 24)],
    *[(0, 12), (4, 16), (8, 20), (12, 24)],
    *[(0, 8), (4, 12), (8, 16), (12, 20), (16, 24)],
    *[(0, 4), (4, 8), (8, 12), (12, 16), (16, 20), (20, 24)],
]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def directly(maps: Tensor, stripes: int) -> list[Tensor]:
    """Every window of the map itself, in the order of the levels."""
    rows = maps.shape[2] // stripes
    return [
        maps[:, :, first * rows : (first + stripes - level + 1) * rows]
        for level in range(1, stripes + 1)
        for first in range(level)
    ]


# ---- windows


def test_the_windows_of_six_stripes_are_those_of_the_paper() -> None:
    rows = torch.arange(24.0)[None, None, :, None].expand(1, 1, 24, 8)
    first, last = -window_maxima(-rows, 6), window_maxima(rows, 6)
    assert list(zip(first.flatten().tolist(), (last + 1).flatten().tolist(), strict=True)) == WINDOWS
    assert window_means(rows, 6).flatten().tolist() == [(start + end - 1) / 2 for start, end in WINDOWS]
    assert num_parts(6) == len(WINDOWS) == 21


@given(stripes=st.integers(1, 7), rows=st.integers(1, 4), width=st.integers(1, 3), seed=st.integers(0, 999))
@settings(deadline=None, max_examples=40)
def test_pooling_by_stripes_is_pooling_of_every_window(stripes: int, rows: int, width: int, seed: int) -> None:
    maps = random(2, 3, stripes * rows, width, seed=seed)
    windows = directly(maps, stripes)
    means, maxima = window_means(maps, stripes), window_maxima(maps, stripes)
    assert means.shape == maxima.shape == (2, num_parts(stripes), 3)
    torch.testing.assert_close(means, torch.stack([window.mean((2, 3)) for window in windows], 1))
    assert torch.equal(maxima, torch.stack([window.amax((2, 3)) for window in windows], 1))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gradients_of_the_windows_are_those_of_direct_pooling(memory_format: torch.memory_format) -> None:
    maps = random(2, 3, 12, 2).to(memory_format=memory_format).requires_grad_()
    weights = random(2, 2, 10, 3, seed=1)
    fast = weights[0] * window_means(maps, 4) + weights[1] * window_maxima(maps, 4)
    direct = [
        weights[0, :, part] * window.mean((2, 3)) + weights[1, :, part] * window.amax((2, 3))
        for part, window in enumerate(directly(maps, 4))
    ]
    (actual,) = torch.autograd.grad(fast.sum(), maps)
    (expected,) = torch.autograd.grad(torch.stack(direct).sum(), maps)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(("height", "stripes"), [(384, 6), (384, 4), (192, 12), (16, 1)])
def test_sizes_that_fit_are_accepted(height: int, stripes: int) -> None:
    check_size(height, 48, step=16, stripes=stripes)


@pytest.mark.parametrize(
    ("height", "width", "stripes", "message"),
    [
        (100, 64, 1, "recipe.image_size is 100 x 64: choose multiples of 16"),
        (128, 60, 1, "recipe.image_size is 128 x 60: choose multiples of 16"),
        (8, 16, 1, "recipe.image_size is 8 x 16: choose multiples of 16"),
        (
            128,
            64,
            6,
            "recipe.image_size is 128 x 64, so the map has 8 rows, which cannot be cut into 6 equal stripes: "
            "set model.stripes to one of 1, 2, 4, 8, or choose a height that is a multiple of 96",
        ),
        (64, 64, 8, "4 rows, which cannot be cut into 8 equal stripes: set model.stripes to one of 1, 2, 4, or"),
    ],
)
def test_sizes_that_do_not_fit_are_explained(height: int, width: int, stripes: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_size(height, width, step=16, stripes=stripes)


# ---- heads

IDS, CHANNELS, HIDDEN, FEATURES = 4, 6, 5, 3


class OneByOne(nn.Module):
    """The same heads as ordinary layers, a window at a time; weights are copied from the batched ones."""

    def __init__(self, heads: PartHeads, slope: float) -> None:
        super().__init__()
        self.stripes, self.slope = heads.pool.stripes, slope
        layers: dict[str, PartLinear | PartNorm] = {"linear": heads.linear, "classifier": heads.classifier}
        layers |= {"norm": heads.norm}
        if isinstance(heads.pool, MultiPool):
            layers |= {"reduce": heads.pool.reduce, "norm_reduced": heads.pool.norm}
        self.parts = nn.ModuleList(
            nn.ModuleDict({name: alone(layer, part, num_parts(self.stripes)) for name, layer in layers.items()})
            for part in range(num_parts(self.stripes))
        )

    def forward(self, maps: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        outputs = []
        for part, window in zip(self.parts, directly(maps, self.stripes), strict=True):
            assert isinstance(part, nn.ModuleDict)
            pooled = window.mean((2, 3))
            if "reduce" in part:
                both = torch.cat([window.amax((2, 3)), pooled], 1)
                pooled = F.leaky_relu(part["norm_reduced"](part["reduce"](both)), self.slope)
            linear = part["linear"](pooled)
            normed = part["norm"](linear)
            outputs.append((linear, normed, part["classifier"](normed)))
        return outputs


def alone(layer: PartLinear | PartNorm, part: int, parts: int) -> nn.Linear | nn.BatchNorm1d:
    """One part's layer as torch's own module."""
    if isinstance(layer, PartLinear):
        _, outputs, inputs = layer.weight.shape
        linear = nn.Linear(inputs, outputs, bias=False)
        linear.load_state_dict({"weight": layer.weight[part]})
        return linear.double()
    norm = nn.BatchNorm1d(layer.num_features // parts)
    state = {name: tensor.view(parts, -1)[part] for name, tensor in layer.state_dict().items() if tensor.ndim}
    norm.load_state_dict(state, strict=False)
    return norm.double()


def make_heads(
    *,
    stripes: int = 3,
    mpfe: bool = True,
    activation: Activation = "leaky_relu",
    feature_from: FeatureFrom = "bn",
    dropout: float = 0.0,
) -> PartHeads:
    torch.manual_seed(0)
    pool: AveragePool | MultiPool = AveragePool(CHANNELS, stripes=stripes)
    if mpfe:
        pool = MultiPool(CHANNELS, HIDDEN, stripes=stripes, activation=activation)
    heads = PartHeads(pool, FEATURES, num_ids=IDS, feature_from=feature_from, dropout=dropout)
    nn.init.normal_(heads.classifier.weight, std=0.5)  # so that its gradient counts
    return heads.double()


VARIANTS = pytest.mark.parametrize(
    ("mpfe", "activation", "slope"), [(True, "leaky_relu", 0.1), (True, "relu", 0.0), (False, "relu", 0.0)]
)


@VARIANTS
@pytest.mark.parametrize("feature_from", ["bn", "linear"])
def test_all_heads_at_once_are_the_heads_one_by_one(
    mpfe: bool, activation: Activation, slope: float, feature_from: FeatureFrom
) -> None:
    heads = make_heads(mpfe=mpfe, activation=activation, feature_from=feature_from)
    reference, maps = OneByOne(heads, slope), random(5, CHANNELS, 6, 2)
    for module in (heads, reference):  # a step in training mode, then at test with the statistics it left
        module.train()
    for _ in range(2):
        outputs, expected = heads(maps), reference(maps)
        for part, (linear, normed, logits) in enumerate(expected):
            torch.testing.assert_close(outputs.feature[:, part], normed if feature_from == "bn" else linear)
            torch.testing.assert_close(outputs.embedding[:, part], normed)
            torch.testing.assert_close(outputs.logits[:, part], logits)
        heads.eval()
        reference.eval()


@VARIANTS
def test_gradients_of_all_heads_at_once_are_those_one_by_one(mpfe: bool, activation: Activation, slope: float) -> None:
    heads = make_heads(mpfe=mpfe, activation=activation)
    reference, maps = OneByOne(heads, slope), random(5, CHANNELS, 6, 2)
    inputs, inputs_one_by_one = maps.clone().requires_grad_(), maps.clone().requires_grad_()
    weights = random(5, num_parts(3), FEATURES + IDS, seed=1)
    outputs, one_by_one = heads(inputs), reference(inputs_one_by_one)
    torch.autograd.backward((torch.cat([outputs.feature, outputs.logits], 2) * weights).sum())
    expected = torch.stack([torch.cat([normed, logits], 1) for _, normed, logits in one_by_one], 1)
    torch.autograd.backward((expected * weights).sum())
    assert inputs.grad is not None
    torch.testing.assert_close(inputs.grad, inputs_one_by_one.grad)
    layers: dict[str, nn.Module] = {"linear": heads.linear, "norm": heads.norm, "classifier": heads.classifier}
    if isinstance(heads.pool, MultiPool):
        layers |= {"reduce": heads.pool.reduce, "norm_reduced": heads.pool.norm}
    for name, layer in layers.items():
        for kind, parameter in layer.named_parameters():
            assert parameter.grad is not None
            for part, gradient in enumerate(parameter.grad.view(num_parts(3), -1)):
                own = reference.get_parameter(f"parts.{part}.{name}.{kind}").grad
                assert own is not None
                torch.testing.assert_close(gradient, own.flatten())


def test_the_layers_start_as_the_authors_did() -> None:
    torch.manual_seed(0)
    pool = MultiPool(200, 128, stripes=3, activation="relu")
    heads = PartHeads(pool, 256, num_ids=50, feature_from="bn", dropout=0.0)
    # torch's own for a 1 x 1 convolution of 400 channels, Kaiming normal over the 256 outputs, and 0.001
    assert pool.reduce.weight.abs().max().item() == pytest.approx(1 / math.sqrt(400), rel=0.001)
    assert pool.reduce.weight.std().item() == pytest.approx(1 / math.sqrt(3 * 400), rel=0.01)
    assert heads.linear.weight.std().item() == pytest.approx(math.sqrt(2 / 256), rel=0.01)
    assert heads.classifier.weight.std().item() == pytest.approx(0.001, rel=0.01)
    for norm in (pool.norm, heads.norm):
        assert norm.weight.mean().item() == pytest.approx(1.0, abs=0.01)
        assert norm.weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert not norm.bias.any()


def test_parts_start_with_different_weights() -> None:
    heads = make_heads()
    for weight in (heads.linear.weight, heads.classifier.weight):
        assert all(not torch.equal(one, other) for one, other in itertools.combinations(weight, 2))


def test_the_classifier_is_found_by_its_name_and_no_product_has_a_bias() -> None:
    names = dict(make_heads().named_parameters())
    assert names["classifier.weight"].shape == (6, IDS, FEATURES)
    assert names.keys() == {
        *("pool.reduce.weight", "pool.norm.weight", "pool.norm.bias"),
        *("linear.weight", "norm.weight", "norm.bias", "classifier.weight"),
    }


def test_dropout_hides_features_from_the_classifier_alone() -> None:
    maps = random(4, CHANNELS, 6, 2)

    def outputs(heads: PartHeads) -> BranchOutput:
        result: BranchOutput = heads(maps)
        return result

    plain, dropped = outputs(make_heads(mpfe=False)), outputs(make_heads(mpfe=False, dropout=1.0))
    assert torch.equal(plain.feature, dropped.feature)
    assert torch.equal(plain.embedding, dropped.embedding)
    assert plain.logits.all()
    assert not dropped.logits.any()
    at_test = outputs(make_heads(mpfe=False, dropout=1.0).eval())
    assert torch.equal(at_test.logits, outputs(make_heads(mpfe=False).eval()).logits)
