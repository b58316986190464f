"""Several processes that train one model, as torchrun starts them. Alone, every function here does
nothing.

A step's batch is drawn whole by every process and then split, so that the training does not depend
on their number.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import nullcontext

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from diagd_cli.distributed import launched, process_group, rank, world_size
from diagd_cli.errors import UsageError

__all__ = [
    "all_reduce",
    "barrier",
    "check_batch_size",
    "data_parallel",
    "launched",
    "micro_batches",
    "process_group",
    "rank",
    "world_size",
]


def barrier() -> None:
    """Return once every process has come here."""
    if world_size() > 1:
        dist.barrier()


def all_reduce(values: Tensor) -> Tensor:
    """The sum over all processes of a tensor that each of them has; in place."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def data_parallel(model: nn.Module) -> nn.Module:
    """The model as the loss calls it: gradients become the mean over the processes."""
    if world_size() == 1:
        return model
    places = [next(model.parameters()).device.index] if next(model.parameters()).is_cuda else None
    # newer releases of torch have another name for the option, older ones only this
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return DistributedDataParallel(model, device_ids=places, broadcast_buffers=False)


def check_batch_size(batch: int) -> None:
    """Raise UsageError where a batch of so many samples leaves a process without any."""
    if batch < world_size():
        message = f"A batch of {batch} cannot be split over {world_size()} processes"
        raise UsageError(
            message, "Start fewer processes, or a larger batch: --batch, or that of the recipe"
        )


def micro_batches(
    batch: Tensor, model: nn.Module, accumulate: int = 1
) -> Iterator[tuple[Tensor, float]]:
    """This process's share of a batch in parts, each with the weight of its mean loss.

    The gradients of all weighted losses of all processes add up to that of the whole batch's mean.

    batch: [B, ...], the same in every process.
    model: what `data_parallel` returned. Processes exchange gradients in the last part only, so
        each part must be backpropagated before the next one is asked for.
    accumulate: the most parts that the share is split into.

    Raises UsageError where there are fewer samples than processes.
    """
    check_batch_size(len(batch))
    share = batch.tensor_split(world_size())[rank()]
    pieces = share.tensor_split(min(accumulate, len(share)))
    for n, piece in enumerate(pieces):
        last = n == len(pieces) - 1
        with (
            model.no_sync()
            if isinstance(model, DistributedDataParallel) and not last
            else nullcontext()
        ):
            # DDP divides by the number of processes
            yield piece, world_size() * len(piece) / len(batch)
