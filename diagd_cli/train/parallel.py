"""Several processes that train one model, as torchrun starts them. Alone, every function here does
nothing.

A step's batch is drawn whole by every process and then split, so that the training does not depend
on their number.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from diagd_cli.errors import DiagdError, UsageError

# how long a process waits for another: the first one may decode a folder of clips
PATIENCE = timedelta(days=7)


@contextmanager
def process_group(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that torchrun started, for the time of the block; yields the device of
    this one.

    Gloo connects them on CPUs, NCCL on CUDA, where each takes the GPU of its local rank.
    """
    if launched() == 1:
        yield device
        return
    if device.type == "cuda":
        own, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if own >= count:
            message = f"This is process {own} of the machine, which has {count} GPU(s)"
            raise UsageError(message, "Start one for each GPU")
        device = torch.device("cuda", own)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield device
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise DiagdError(
                "Another process of this training has ended", "Its own message says why"
            ) from error
        raise
    finally:
        dist.destroy_process_group()


def launched() -> int:
    """Number of processes that torchrun started, joined or not."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Number of this process, from 0; process 0 writes the files."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


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
