"""Generalised-mean pooling, between the average and the maximum.

Radenovic et al., "Fine-tuning CNN Image Retrieval with No Human Annotation" (TPAMI 2019), equation 3.
"""

import math

import torch
from torch import Tensor, nn


class GeneralisedMean(nn.Module):
    """(mean over all positions of x^p)^(1/p), [B, C, H, W] -> [B, C], with one learned p for all channels.

    p = 1 is the average, large p the maximum. Computed in float32 and through logarithms, where no power overflows.

    Args:
        p: initial exponent, above 0.
        least: values below it count as this, and have no gradient: maps behind a ReLU are full of zeros.
    """

    def __init__(self, p: float = 3.0, *, least: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(p))
        self.least = least

    def forward(self, maps: Tensor) -> Tensor:
        """Pool non-negative maps to float32 vectors."""
        logarithms = maps.float().clamp(min=self.least).log().flatten(2)
        log_mean = (self.p * logarithms).logsumexp(2) - math.log(logarithms.shape[2])
        return (log_mean / self.p).exp()
