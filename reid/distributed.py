"""One batch on several processes, with the numbers that one process would have found.

Every process draws the whole batch and keeps an equal run of its rows, `mine`; whatever looks at other images sees
those of all processes, `whole`. So losses, gradients, batch statistics and random numbers are those of a single
process, apart from rounding. The processes are those of torch's default group; without one every function here returns
what it is given.

All processes must come by the same calls in the same order, and hold generators in the same states. They do, because
each of them runs the same code: what is drawn for a whole batch is the same everywhere, and what is drawn for each
image is drawn for all of them (`batch_size`) before a process takes its rows.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

_VALUES = "values"
# How gloo and NCCL put it that another process is gone or silent: they raise RuntimeError for everything.
_SIGNS = ("gloo/transport", "caused pair closure", "NCCL")


class LostProcessError(RuntimeError):
    """Another process of the group has died, failed or gone silent; what it says itself is the cause."""


def size() -> int:
    """How many processes share a batch; 1 without a process group."""
    return dist.get_world_size() if _grouped() else 1


def rank() -> int:
    """The number of this process, from 0 on: the one that reports and writes files."""
    return dist.get_rank() if _grouped() else 0


def check_batch(*, identities: int, images: int, processes: int) -> None:
    """Check that a batch of P x K images can be dealt out evenly.

    Raises:
        ValueError: it cannot; the message says which numbers fit.
    """
    batch = identities * images
    if batch % processes:
        fitting = ", ".join(str(count) for count in range(1, batch + 1) if batch % count == 0)
        raise ValueError(
            f"a batch of {identities} x {images} images (recipe.sampler.identities x images) cannot be shared equally "
            f"by {processes} processes: take {fitting} processes, or a batch that is a multiple of {processes}"
        )


def batch_size(rows: int) -> int:
    """Images in the whole batch, given those of this process."""
    return rows * size()


def mine(batch: Tensor) -> Tensor:
    """This process's rows of what all of them hold for the whole batch."""
    return batch.chunk(size())[rank()] if size() > 1 else batch


def whole(rows: Tensor) -> Tensor:
    """The rows of all processes in the order of the batch, for what looks at more than one image.

    The gradient is that of the sum over all processes of what each makes of the result; they must all make the same of
    it. Averaging the gradients of parameters over the processes then counts it once; without that, see `once`.
    """
    return _Whole.apply(rows) if size() > 1 else rows


def once(value: Tensor) -> Tensor:
    """A value that all processes have computed from the `whole` batch, its gradient being taken without averaging."""
    return value / size()


class _Whole(torch.autograd.Function):
    """All-gather along the first dimension. Written so that it works inside torch.func.grad and torch.func.vjp."""

    @staticmethod
    def forward(rows: Tensor) -> Tensor:
        gathered = rows.new_empty(batch_size(len(rows)), *rows.shape[1:])
        dist.all_gather_into_tensor(gathered, rows.contiguous())
        return gathered

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor], output: Tensor) -> None:
        """Nothing to keep: every process has the same gradient of the whole, and needs that of its own rows."""

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        return mine(gradient) * size()


def in_turn(rows: NDArray[np.int64], batch: int) -> list[NDArray[np.int64]]:
    """Rows in batches; of n processes each has every n-th, and all have equally many: the last row is repeated."""
    if size() > 1:
        batch = min(batch, -(-len(rows) // size()))
        rows = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % (batch * size()))])
    return np.split(rows, range(batch, len(rows), batch))[rank() :: size()]


def from_turns(results: list[Tensor]) -> Tensor:
    """What all processes have made of the batches they had `in_turn`, in order; what was repeated is at the end."""
    if size() == 1:
        return torch.cat(results)
    gathered = whole(torch.stack(results))  # [n * batches of each, rows, D]
    return gathered.view(size(), len(results), *gathered.shape[1:]).transpose(0, 1).flatten(0, 2)


def replicate(module: nn.Module) -> nn.Module:
    """A module whose gradients are averaged over the processes; itself without a group.

    Layers may be skipped if all processes skip the same: the gradients of those stay None. Torch would regroup the
    gradients after a first step otherwise, and sums over more than two processes would be rounded otherwise in a trial
    that was resumed.
    """
    if size() == 1:
        return module
    return nn.parallel.DistributedDataParallel(module, find_unused_parameters=True)


def from_first(
    content: tuple[dict[str, Tensor], dict[str, Any]] | None, device: torch.device
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The tensors (on the CPU) and JSON values that the first process holds, or its None, on every process.

    Args:
        content: on the first process; ignored on the others.
        device: by which processes talk to each other.
    """
    if size() == 1:
        return content
    packed = torch.empty(0, dtype=torch.uint8)
    if rank() == 0 and content is not None:
        tensors, values = content
        text = torch.frombuffer(bytearray(json.dumps(values).encode()), dtype=torch.uint8)
        packed = torch.frombuffer(bytearray(safetensors.torch.save(tensors | {_VALUES: text})), dtype=torch.uint8)
    length = torch.tensor(len(packed), device=device)
    dist.broadcast(length, 0)
    packed = packed.to(device) if rank() == 0 else torch.empty(int(length), dtype=torch.uint8, device=device)
    dist.broadcast(packed, 0)
    if not len(packed):
        return None
    tensors = safetensors.torch.load(packed.cpu().numpy().tobytes())
    return tensors, json.loads(tensors.pop(_VALUES).numpy().tobytes())


@contextmanager
def in_company() -> Iterator[None]:
    """Say clearly what an error means that another process has caused.

    Raises:
        LostProcessError: the group broke inside the block, or its time limit has passed.
    """
    try:
        yield
    except RuntimeError as error:
        if size() == 1 or not (isinstance(error, dist.DistError) or any(sign in str(error) for sign in _SIGNS)):
            raise
        raise LostProcessError(
            f"process {rank() + 1} of {size()} has lost the others: one of them died, failed, or did not answer in time"
        ) from error


def _grouped() -> bool:
    return dist.is_available() and dist.is_initialized()
