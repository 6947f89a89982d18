"""Batch norms that look at another set of images than those at hand: at a part of the batch, or at all processes'.

Torch's SyncBatchNorm is for GPUs alone, knows no groups and cannot be looked through by torch.func, as
`reid.parts.relevance` does. This is its formula without these limits, from the two kernels of an ordinary batch norm
that is given its statistics.
"""

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.modules.batchnorm import _BatchNorm

from reid.distributed import batch_size, rank, whole


class GroupedBatchNorm(_BatchNorm):
    """Batch norm over each of `groups` equal runs of consecutive images; the first alone moves the running averages.

    This is what torch's DataParallel does with a batch norm: every device normalises by its own images, and what
    remains is the state of the first. At test it is a batch norm like any other.
    """

    def __init__(self, norm: _BatchNorm, groups: int) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self.groups = groups
        for name, tensor in [*norm.named_parameters(), *norm.named_buffers()]:
            setattr(self, name, tensor)

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalise [B, C] or [B, C, H, W]."""
        return _normalise(self, inputs, self.groups) if self.training else super().forward(inputs)

    def _check_input_dim(self, input: Any) -> None:  # noqa: A002 - the name in torch
        """Take any number of dimensions."""


def group_batch_norms(module: nn.Module, groups: int) -> None:
    """Replace every batch norm inside a module by a grouped one with its parameters, in place."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, GroupedBatchNorm(child, groups))
        else:
            group_batch_norms(child, groups)


class _Synchronised(_BatchNorm):
    """Stands between a class of batch norms and torch's base of them all."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name in torch
        """Normalise by the images of all processes in training."""
        return _normalise(self, input, 1) if self.training else super().forward(input)


def synchronise_batch_norms(module: nn.Module) -> None:
    """Let every batch norm inside a module see the images of all processes, in place; grouped ones do anyway.

    A norm keeps its own class as a base, and with it whatever that does to its input before it is normalised.
    """
    for norm in module.modules():
        if isinstance(norm, _BatchNorm) and not isinstance(norm, GroupedBatchNorm):
            norm.__class__ = type(f"Synchronised{type(norm).__name__}", (type(norm), _Synchronised), {})


def _normalise(norm: _BatchNorm, inputs: Tensor, groups: int) -> Tensor:
    """What a batch norm does in training, over each of the groups of the whole batch."""
    outputs, means, variances = _Normalise.apply(inputs, norm.weight, norm.bias, norm.eps, groups)
    if norm.track_running_stats:
        count = math.ceil(batch_size(len(inputs)) / groups) * math.prod(inputs.shape[2:])
        momentum = cast(float, norm.momentum)
        cast(Tensor, norm.num_batches_tracked).add_(1)
        cast(Tensor, norm.running_mean).lerp_(means[0], momentum)
        cast(Tensor, norm.running_var).lerp_(variances[0] * (count / (count - 1)), momentum)
    return cast(Tensor, outputs)


class _Pieces:
    """The rows of this process in equal pieces, none of which lies in two groups."""

    def __init__(self, rows: int, groups: int) -> None:
        in_group = math.ceil(batch_size(rows) / groups)  # of the last group, maybe fewer
        self.rows = math.gcd(rows, in_group)
        self.per_group = in_group // self.rows
        self.first = rank() * rows // self.rows

    def of(self, rows: Tensor) -> list[tuple[int, Tensor]]:
        """The pieces of some rows, each with the number of its group."""
        pieces = enumerate(torch.split(rows, self.rows), self.first)
        return [(number // self.per_group, piece) for number, piece in pieces]

    def by_group(self, of_pieces: list[Tensor]) -> tuple[Tensor, ...]:
        """What this process knows of its pieces, [2, C] each, as [pieces, 2, C] for each group of the whole batch."""
        return torch.split(whole(torch.stack(of_pieces)), self.per_group)


class _Normalise(torch.autograd.Function):
    """From inputs [B, C, ...] to normalised ones and every group's mean and biased variance, [groups, C]."""

    @staticmethod
    def forward(inputs: Tensor, weight: Tensor, bias: Tensor, eps: float, groups: int) -> tuple[Tensor, Tensor, Tensor]:
        pieces = _Pieces(len(inputs), groups)
        full = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
        found = [torch.stack(torch.batch_norm_update_stats(piece, None, None, 0.0)) for _, piece in pieces.of(full)]
        known = [statistics.unbind(1) for statistics in pieces.by_group(found)]
        means = torch.stack([mean.mean(0) for mean, _ in known])
        variances = torch.stack([variance.mean(0) + mean.var(0, correction=0) for mean, variance in known])
        outputs = [
            F.batch_norm(piece, means[group], variances[group], weight, bias, eps=eps)
            for group, piece in pieces.of(inputs)
        ]
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0], means, variances

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        values, weight, _, ctx.eps, ctx.groups = inputs  # type: ignore[attr-defined]
        _, means, variances = output
        ctx.mark_non_differentiable(means, variances)
        ctx.save_for_backward(values, weight, means, variances)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient with given statistics, less what the inputs do by way of the statistics."""
        inputs, weight, means, variances = ctx.saved_tensors
        pieces = _Pieces(len(inputs), ctx.groups)
        direct = [
            torch.ops.aten.native_batch_norm_backward(
                slope, values, weight, means[group], variances[group], None, None, False, ctx.eps, [True, True, True]
            )
            for (group, slope), (_, values) in zip(pieces.of(gradient), pieces.of(inputs), strict=True)
        ]
        by_group = pieces.by_group([torch.stack(sums) for _, *sums in direct])
        through = []
        for (group, values), (slope, *_) in zip(pieces.of(inputs), direct, strict=True):
            sums = by_group[group]
            count = len(sums) * pieces.rows * math.prod(inputs.shape[2:])
            by_weight, by_bias = sums.sum(0) / count
            scale = (variances[group] + ctx.eps).rsqrt()
            steep = weight * scale.square() * by_weight
            level = weight * scale * by_bias - means[group] * steep
            shape = (-1, *(1 for _ in inputs.shape[2:]))
            through.append((slope - torch.addcmul(level.view(shape), values, steep.view(shape))).to(inputs.dtype))
        own = torch.stack([torch.stack(sums) for _, *sums in direct]).sum(0)
        return torch.cat(through) if len(through) > 1 else through[0], own[0], own[1], None, None
