"""Maps of what a network goes by, against the definitions written out, on every method."""

from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid import methods
from reid.methods.base import Method
from reid.parts.relevance import BranchLayers
from reid.parts.second_order import SecondOrderAttention
from reid.visualize import maps

BRANCHES = {
    "baseline": ["global"],
    "bag_of_tricks": ["global"],
    "agw": ["global"],
    "bdb": ["global", "drop"],
    "saadb": ["global", "second"],
    "han": ["last stage", "fused stages"],
    "sona": ["global", "local"],
    "esnet": ["all", "erasing"],
}


def network(name: str, variant: str = "default") -> Method:
    """A small network whose batch norms differ from the identity, as trained ones do."""
    torch.manual_seed(0)
    stripes: dict[str, Any] = {"stripes": 4} if (name, variant) == ("han", "default") else {}
    method = methods.build(name, variant, num_ids=5, backbone="resnet10_w16", **stripes)
    for module in method.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(cast(Tensor, module.running_mean), -0.2, 0.2)
            nn.init.uniform_(cast(Tensor, module.running_var), 0.5, 2.0)
    return method.eval().requires_grad_(False)


def images(count: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, 64, 32, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=methods.names())
def method(request: pytest.FixtureRequest) -> tuple[str, Method]:
    return request.param, network(request.param)


def test_every_method_shows_its_branches(method: tuple[str, Method]) -> None:
    name, own = method
    found = maps.branch_maps(own, images())
    assert list(found) == BRANCHES[name]
    for seen in found.values():
        assert seen.shape[0] == 2
        assert seen.shape[2:] == ((8, 4) if name == "sona" else (4, 2))


def test_looking_leaves_the_network_as_it_was(method: tuple[str, Method]) -> None:
    _, own = method
    before = own.embed(images())
    maps.branch_maps(own, images())
    maps.cg_ram_pairs(own, images(), images(seed=2), flip=True)
    assert torch.equal(before, own.embed(images()))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in own.modules())


def test_a_map_is_what_its_branch_pools() -> None:
    bdb = network("bdb")
    found = maps.branch_maps(bdb, images())
    trunk = cast(nn.Module, bdb.trunk)(images())
    heads = cast(nn.ModuleDict, bdb.heads)
    assert torch.equal(found["global"], trunk)
    assert torch.equal(found["drop"], cast(nn.Module, heads["drop"].body)(trunk))


def test_a_single_stage_is_shown_once() -> None:
    assert list(maps.branch_maps(network("han", "baseline"), images())) == ["last stage"]


def test_activation_is_the_sum_of_squares_by_brute_force() -> None:
    values = torch.randn(2, 3, 4, 2, generator=torch.Generator().manual_seed(0))
    for image, found in zip(values, maps.activation(values), strict=True):
        sums = [[sum(float(image[c, y, x]) ** 2 for c in range(3)) for x in range(2)] for y in range(4)]
        largest = max(max(row) for row in sums)
        assert torch.allclose(found, torch.tensor(sums) / largest)


def test_a_map_of_zeros_stays_one() -> None:
    assert not maps.activation(torch.zeros(1, 3, 4, 2)).any()


@pytest.mark.parametrize(
    ("name", "flip"), [("esnet", True), ("baseline", False), ("bdb", True), ("saadb", False), ("han", False)]
)
def test_cg_ram_is_equations_2_to_4_by_finite_differences(name: str, flip: bool) -> None:
    """Each value of a branch's map is moved a little, and the score of the whole network is measured again."""
    method = network(name).double()
    query, gallery = images(1).double(), images(1, seed=2).double()
    for branch, (of_query, _) in maps.cg_ram_pairs(method, query, gallery, flip=flip).items():
        seen = maps.branch_maps(method, query)[branch]
        expected = torch.zeros(seen.shape[2:], dtype=torch.float64)
        for y in range(seen.shape[2]):
            for x in range(seen.shape[3]):
                expected[y, x] = _directional(method, query, gallery, branch, (y, x), flip=flip)
        expected = F.relu(expected)
        assert torch.allclose(of_query[0], expected / expected.max(), atol=2e-4), branch


def _directional(
    method: Method, query: Tensor, gallery: Tensor, branch: str, place: tuple[int, int], *, flip: bool
) -> Tensor:
    """sum_k dS/dA_k * A_k at a place: the derivative of the score when the map is scaled there; of the image alone."""
    step, scores = 1e-5, []
    for sign in (1, -1):
        with _scaled(method, branch, place, 1 + sign * step):
            vector = method.branches(query)
        found = torch.cat([output.embedding for output in vector.values()], 1)
        if flip:
            found = (found + method.embed(query.flip(3))) / 2
        other = method.embed(gallery)
        if flip:
            other = (other + method.embed(gallery.flip(3))) / 2
        scores.append(F.cosine_similarity(found, other)[0])
    return (scores[0] - scores[1]) / (2 * step)


class _scaled:  # noqa: N801 - reads as a phrase
    """Within this, one place of a branch's map is scaled in all channels, where the branch's module reads it."""

    def __init__(self, method: Method, branch: str, place: tuple[int, int], factor: float) -> None:
        self.place, self.factor = place, factor
        self.module, self.reads = _reader(method, branch)

    def _scale(self, seen: Tensor) -> Tensor:
        changed = seen.clone()
        changed[:, :, self.place[0], self.place[1]] *= self.factor
        return changed

    def __enter__(self) -> None:
        if self.reads:
            self.handle = self.module.register_forward_pre_hook(lambda _, inputs: (self._scale(inputs[0]),))
        else:
            self.handle = self.module.register_forward_hook(lambda _, __, output: self._scale(output))

    def __exit__(self, *_: object) -> None:
        self.handle.remove()


def _reader(method: Method, branch: str) -> tuple[nn.Module, bool]:
    """The module at which a branch's map appears, by hand for each network, and whether as its input."""
    parts = dict(method.named_modules())
    if branch == "last stage":
        return parts["fusion.stages.3"], False
    if branch == "fused stages":
        return parts["heads"], True
    if f"own.{branch}.head" in parts:
        return parts[f"own.{branch}.head"], True
    return parts[f"heads.{branch}.body"], False


def test_cg_ram_of_esnet_needs_no_more_than_its_head() -> None:
    """The gallery side, by the head alone: the layers before the map do not enter."""
    method = network("esnet")
    query, gallery = images(1), images(1, seed=2)
    found = maps.cg_ram_pairs(method, query, gallery, flip=False)["erasing"][1]
    own = cast("dict[str, BranchLayers]", method.own)
    shared = cast(nn.Module, method.shared)(gallery)
    seen = own["erasing"].maps(shared).detach().requires_grad_()
    vector = torch.cat([own["all"](shared).embedding, own["erasing"].read(seen).embedding], 1)
    F.cosine_similarity(vector, method.embed(query)).sum().backward()  # type: ignore[no-untyped-call]
    expected = F.relu((seen.grad * seen).sum(1)).detach()  # type: ignore[operator]
    assert torch.allclose(found, expected / expected.max(), atol=1e-5)


def test_attention_is_equations_1_and_2() -> None:
    method = network("sona", "sona2_3")
    layers = maps.attention(method, images())
    modules = [module for module in method.modules() if isinstance(module, SecondOrderAttention)]
    assert [size for _, size in layers] == [(8, 4), (8, 4)]
    trunk = cast(nn.Module, method.trunk)
    at_layer2 = trunk.layer1(trunk.stem(images()))  # type: ignore[operator]
    at_layer2 = trunk.layer2[0](at_layer2)  # type: ignore[index, operator]
    theta = modules[0].theta(at_layer2).double().flatten(2).transpose(1, 2)
    inner = theta.shape[2]
    centring = (torch.eye(inner) - torch.ones(inner, inner) / inner).double() / inner
    expected = (theta @ centring @ theta.transpose(1, 2) / inner**0.5).softmax(2)
    assert torch.allclose(layers[0][0].double(), expected, atol=1e-6)
    assert torch.allclose(layers[1][0].sum(2), torch.ones(2, 32))


def test_a_network_without_attention_has_none() -> None:
    assert maps.attention(network("bdb"), images()) == []
