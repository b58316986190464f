"""Several processes that work as one, as torchrun starts them. Alone, every function here does
nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from diagd_cli.errors import PeersLost, UsageError

# how long a process waits for another: the first one may decode a folder of clips
PATIENCE = timedelta(days=7)


@contextmanager
def process_group(
    device: torch.device, what: str = "this training", objects: bool = False
) -> Iterator[torch.device]:
    """Join the processes that torchrun started, for the time of the block; yields the device of
    this one.

    Gloo connects them on CPUs, NCCL on CUDA, where each takes the GPU of its local rank.

    what: they do together, in words.
    objects: whether `tell` and `heard` are going to be used, which is by way of the CPU.

    Raises UsageError for more processes than GPUs, PeersLost where another one has ended.
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
    both = "cpu:gloo,cuda:nccl" if objects else "nccl"
    dist.init_process_group(both if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield device
    except RuntimeError as error:
        if is_lost(error):
            message = f"Another process of {what} has ended"
            raise PeersLost(message, "Its own message says why") from error
        raise
    finally:
        dist.destroy_process_group()


def is_lost(error: BaseException) -> bool:
    """Whether an error is that of a process that waits for one that is no more."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error)
    )


def launched() -> int:
    """Number of processes that torchrun started, joined or not."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def launched_rank() -> int:
    """Number of this process among them, joined or not."""
    return int(os.environ.get("RANK", "0"))


def rank() -> int:
    """Number of this process, from 0; process 0 writes the files."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def tell(what: Any) -> None:
    """Let all others hear something that can be pickled; process 0 calls this."""
    dist.broadcast_object_list([what], src=0, device=torch.device("cpu"))


def heard() -> Any:
    """What process 0 tells; the others call this, and wait."""
    what: list[Any] = [None]
    dist.broadcast_object_list(what, src=0, device=torch.device("cpu"))
    return what[0]


def gathered(what: str) -> list[str]:
    """A text of each process, by its number; all of them call this."""
    texts = [""] * world_size()
    # by way of the CPU: all_gather_object would take the GPU where NCCL is
    for number in range(world_size()):
        one = [what]
        dist.broadcast_object_list(one, src=number, device=torch.device("cpu"))
        texts[number] = one[0]
    return texts
