"""A draw that selects code, made on the CPU so that no device is waited for."""

import torch


@torch.library.custom_op("reid::happens", mutates_args=())
def happens(probability: float) -> bool:
    """One draw from torch's default generator on the CPU: it selects code, and no device is waited for."""
    return torch.rand((), device="cpu").item() < probability


@happens.register_fake
def _(probability: float) -> bool:
    """For tensors without values, the likelier one. This is why it is an operator: a plain draw would have no value."""
    return probability > 0.5
