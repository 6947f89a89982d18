"""The methods as a first implementation has them: straight from the paper, or the way its public code goes.

`naive` makes such a form of a built method, for training: the same parameters, draws (on a CPU) and losses, up to
rounding, by slower ways. Layers are exchanged one by one, wherever they are; HAN and ES-Net have a training step of
their own. The rest is ours, the trunk among it: nobody runs that once for each branch.
"""

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid.losses import MetricLoss, cross_entropy, hard_triplet
from reid.methods import esnet, han
from reid.methods.base import BranchOutput, Method
from reid.parts.drop import BatchDropBlock
from reid.parts.gem import GeneralisedMean
from reid.parts.non_local import NonLocal
from reid.parts.part_heads import MultiPool, PartHeads
from reid.parts.power_pooling import PowerPooling
from reid.parts.salience import DropOrAttend
from reid.parts.second_order import SecondOrderAttention


def naive(method: Method) -> Method:
    """The naive form of a method. They share their parameters, except those of HAN's heads, which are copied.

    Raises:
        ValueError: an ES-Net other than the paper's way to erase.
    """
    slow = copy.deepcopy(method, {id(parameter): parameter for parameter in method.parameters()})
    for name, module in list(slow.named_modules()):
        if type(module) in LAYERS:
            slow.set_submodule(name, LAYERS[type(module)](module))
    loss = slow.metric_loss
    if isinstance(loss, functools.partial) and loss.func is hard_triplet:
        slow.metric_loss = functools.partial(looped_triplet, **loss.keywords)
    if isinstance(slow, han.Network):
        return SeparateHeads(slow)
    if isinstance(slow, esnet.Network) and "erasing" in slow.own and slow.erasing.by != "none":
        return ErasingFromThePixels(slow)
    return slow


def looped_triplet(features: Tensor, labels: Tensor, *, margin: float | None) -> Tensor:
    """The batch-hard triplet loss, mined anchor by anchor with boolean indices."""
    positives, negatives = [], []
    with torch.autocast(features.device.type, enabled=False):
        features = features.float()
        squares = features.square().sum(1, keepdim=True)
        distances = (squares + squares.T - 2 * features @ features.T).clamp(min=1e-12).sqrt()
        for anchor, row in enumerate(distances):
            same = labels == labels[anchor]
            positives.append(row[same].max())
            negatives.append(row[~same].min())
        gap = torch.stack(positives) - torch.stack(negatives)
        return (F.softplus(gap) if margin is None else F.relu(gap + margin)).mean()


class MaskOfOnes(nn.Module):
    """BDB's layer: the place is drawn in Python, and a mask as large as the map is multiplied on."""

    def __init__(self, block: BatchDropBlock) -> None:
        super().__init__()
        self.block = block

    def forward(self, maps: Tensor) -> Tensor:
        """Erase one rectangle of every group's images."""
        groups, (height, width) = self.block.groups or len(maps), maps.shape[2:]
        rows, columns = round(self.block.height_ratio * height), round(self.block.width_ratio * width)
        tops, lefts = (
            [int(torch.randint(end + 1, ())) for _ in range(groups)] for end in (height - rows, width - columns)
        )
        mask = torch.ones_like(maps)
        for group, top, left in zip(mask.chunk(groups), tops, lefts, strict=False):
            group[:, :, top : top + rows, left : left + columns] = 0
        return maps * mask


class BothMaps(nn.Module):
    """SaADB's second branch as in its authors' code: both maps every time, weighted by one and zero."""

    def __init__(self, layers: DropOrAttend) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, maps: Tensor) -> Tensor:
        """Mix the dropped and the attended map."""
        dropped, attended = self.layers.drop(maps), self.layers.attend(maps)
        weight = float(torch.rand(()).item() < self.layers.drop_probability)
        mixed: Tensor = weight * dropped + (1 - weight) * attended
        return mixed


class FromTheLeft(nn.Module):
    """The non-local block with its matrix of all pairs of positions."""

    def __init__(self, block: NonLocal) -> None:
        super().__init__()
        self.block = block

    def forward(self, maps: Tensor) -> Tensor:
        """Add to each position what it finds."""
        theta, phi, g = (layer(maps).flatten(2) for layer in (self.block.theta, self.block.phi, self.block.g))
        pairs = theta.mT @ phi / g.shape[2]  # [B, n, n]
        found = (pairs @ g.mT).mT.unflatten(2, maps.shape[2:])
        added: Tensor = self.block.norm(self.block.w(found))
        return maps + added


class ExplicitCovariance(nn.Module):
    """SONA-Net's attention as printed: the centring matrix, Sigma, the softmax of its rows, a product."""

    def __init__(self, attention: SecondOrderAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, maps: Tensor) -> Tensor:
        """Add to each position what it attends to."""
        theta, g = (layer(maps).flatten(2).mT for layer in (self.attention.theta, self.attention.g))  # [B, n, c']
        inner = theta.shape[2]
        centring = torch.eye(inner, device=theta.device) - torch.full((inner, inner), 1 / inner, device=theta.device)
        sigma = theta @ centring @ theta.mT  # [B, n, n]
        z = (sigma * self.attention.scale).softmax(2) @ g
        added: Tensor = self.attention.p(z.mT.unflatten(2, maps.shape[2:]))
        return maps + added


class Powers(nn.Module):
    """Generalised-mean pooling by powers and a root."""

    def __init__(self, pool: GeneralisedMean) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, maps: Tensor) -> Tensor:
        """Pool non-negative maps."""
        powers = maps.float().clamp(min=self.pool.least).pow(self.pool.p)
        return powers.mean((2, 3)).pow(1 / self.pool.p)


class RatioOfPowers(nn.Module):
    """ES-Net's P-pooling as printed: two sums of powers."""

    def __init__(self, pool: PowerPooling) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, maps: Tensor) -> Tensor:
        """Pool non-negative maps."""
        values, exponent = maps.float().clamp(min=1e-6), self.pool.exponent.clamp(1, 50).reshape(-1, 1, 1)
        return values.pow(exponent).sum((2, 3)) / values.pow(exponent - 1).sum((2, 3))


LAYERS: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    BatchDropBlock: MaskOfOnes,
    DropOrAttend: BothMaps,
    NonLocal: FromTheLeft,
    SecondOrderAttention: ExplicitCovariance,
    GeneralisedMean: Powers,
    PowerPooling: RatioOfPowers,
}


class SeparateHeads(Method):
    """HAN with a head module for every window, each of which cuts its window out of the map and pools it."""

    def __init__(self, slow: han.Network) -> None:
        super().__init__(label_smoothing=slow.label_smoothing, metric_loss=slow.metric_loss)
        self.config, self.trunk, self.fusion = slow.config, slow.trunk, slow.fusion
        stripes = slow.config.stripes
        self.windows = [(start, height) for height in range(stripes, 0, -1) for start in range(stripes + 1 - height)]
        self.heads = nn.ModuleList(OneHead(slow.heads, part) for part in range(len(self.windows)))

    def branches(self, images: Tensor, labels: Tensor | None = None) -> dict[str, BranchOutput]:
        """The outputs of all parts, which are numbered."""
        stages = self.trunk.stages(images)
        maps = self.fusion([stages[stage - 1] for stage in self.config.stages])
        rows = maps.shape[2] // self.config.stripes
        outputs = {}
        for part, (start, height) in enumerate(self.windows):
            outputs[str(part)] = self.heads[part](maps[:, :, rows * start : rows * (start + height)])
        return outputs

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Ours, out of one cross-entropy for each part."""
        outputs = list(self.branches(images, labels).values())
        ids = [cross_entropy(output.logits, labels, label_smoothing=self.label_smoothing) for output in outputs]
        losses = {"id/parts": torch.stack(ids).mean()}
        if self.metric_loss is not None:
            losses[f"triplet/{self.config.triplet_groups}"] = self._triplet(outputs, labels, self.metric_loss)
        return losses

    def _triplet(self, outputs: list[BranchOutput], labels: Tensor, metric_loss: MetricLoss) -> Tensor:
        groups: dict[int, list[Tensor]] = {}
        for part, output in enumerate(outputs):
            group = self.windows[part][1] if self.config.triplet_groups == "levels" else part
            groups.setdefault(group, []).append(output.feature)
        return torch.stack([metric_loss(torch.cat(group, 1), labels) for group in groups.values()]).mean()


class OneHead(nn.Module):
    """The head of one part, out of the weights of all."""

    def __init__(self, heads: PartHeads, part: int) -> None:
        super().__init__()
        self.multiple, self.from_bn = isinstance(heads.pool, MultiPool), heads.feature_from == "bn"
        self.reduce: nn.Module = nn.Identity()
        if isinstance(heads.pool, MultiPool):
            activation = copy.deepcopy(heads.pool.activation)
            norm = _norm(heads.pool.norm, part, heads.linear.weight.shape[2])
            self.reduce = nn.Sequential(_linear(heads.pool.reduce.weight[part]), norm, activation)
        self.linear = _linear(heads.linear.weight[part])
        self.norm = _norm(heads.norm, part, heads.linear.weight.shape[1])
        self.dropout = nn.Dropout(heads.dropout.p)
        self.classifier = _linear(heads.classifier.weight[part])

    def forward(self, window: Tensor) -> BranchOutput:
        """Read the part's window of the map."""
        pooled = F.adaptive_avg_pool2d(window, 1).flatten(1)
        if self.multiple:
            pooled = torch.cat([F.adaptive_max_pool2d(window, 1).flatten(1), pooled], 1)
        linear = self.linear(self.reduce(pooled))
        normed = self.norm(linear)
        feature = normed if self.from_bn else linear
        return BranchOutput(feature=feature, logits=self.classifier(self.dropout(normed)), embedding=normed)


def _linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.detach().clone())
    return layer


def _norm(norm: nn.BatchNorm1d, part: int, features: int) -> nn.BatchNorm1d:
    layer = nn.BatchNorm1d(features, device=norm.weight.device)
    layer.weight = nn.Parameter(norm.weight.detach().view(-1, features)[part].clone())
    layer.bias = nn.Parameter(norm.bias.detach().view(-1, features)[part].clone())
    return layer


class ErasingFromThePixels(Method):
    """ES-Net that asks for what is salient with a pass and a backward pass of its own, and erases image by image.

    All of it clears the parameters' gradients, and batch norms count that pass into their running averages.
    """

    def __init__(self, slow: esnet.Network) -> None:
        super().__init__(label_smoothing=slow.label_smoothing, metric_loss=slow.metric_loss)
        erasing = slow.erasing
        if (erasing.by, erasing.layer, erasing.per, slow.concat, slow.drop) != ("besm", "layer4", "image", False, None):
            raise ValueError("of ES-Net only the paper's way to erase has a naive form: set --no-naive")
        self.shared, self.own, self.erasing = slow.shared, slow.own, erasing

    def branches(self, images: Tensor, labels: Tensor | None = None) -> dict[str, BranchOutput]:
        """Both branches, ESB on erased images."""
        assert labels is not None
        seen = {"all": images, "erasing": self._erased(images, self._salience(images, labels))}
        return {name: own(self.shared(seen[name])) for name, own in self.own.items()}

    def _salience(self, images: Tensor, labels: Tensor) -> Tensor:
        """CG-RAM, [B, h, w], by a gradient that goes through the whole network."""
        branch = self.own["erasing"]
        maps = branch.maps(self.shared(images))
        maps.retain_grad()
        score = looped_score(branch.head(maps).embedding, labels)
        torch.autograd.backward(score, retain_graph=True)
        assert maps.grad is not None
        salience = F.relu((maps.grad * maps).sum(1)).detach()
        self.zero_grad()
        return salience

    def _erased(self, images: Tensor, salience: Tensor) -> Tensor:
        erased, size = images.clone(), (images.shape[2], images.shape[3])
        for image, seen in zip(erased, salience, strict=True):
            if torch.rand(()).item() < self.erasing.probability:
                resized = F.interpolate(seen[None, None].float(), size, mode="bilinear")[0, 0]
                least = resized.flatten().sort(descending=True).values[round(self.erasing.ratio * resized.numel()) - 1]
                chosen = (resized >= least * (1 - 1e-5)) & (resized > 0)  # resizing repeats values, up to rounding
                image[:, chosen] = self.erasing.fill.flatten(1)
        return erased


def looped_score(features: Tensor, labels: Tensor) -> Tensor:
    """S_batch, image by image."""
    with torch.autocast(features.device.type, enabled=False):
        unit = F.normalize(features.float())
        terms = []
        for image, row in enumerate(unit @ unit.T):
            positives = labels == labels[image]
            positives[image] = False
            easiest = row[positives].max()
            terms.append(easiest.exp() * easiest)
        return torch.stack(terms).sum()
