"""Batch norms that look at a part of the batch, as on several devices that do not synchronise them."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


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
        if not self.training:
            return super().forward(inputs)
        first, *others = inputs.chunk(self.groups)
        return torch.cat([super().forward(first), *(self._alone(other) for other in others)])

    def _alone(self, inputs: Tensor) -> Tensor:
        return F.batch_norm(inputs, None, None, self.weight, self.bias, training=True, eps=self.eps)

    def _check_input_dim(self, input: Any) -> None:  # noqa: A002 - the name in torch
        """Take any number of dimensions."""


def group_batch_norms(module: nn.Module, groups: int) -> None:
    """Replace every batch norm inside a module by a grouped one with its parameters, in place."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, GroupedBatchNorm(child, groups))
        else:
            group_batch_norms(child, groups)
