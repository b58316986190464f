"""Modules whose parameters are allocated once, in the dtype and on the device they are wanted, and
left unset.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

FACTORIES = (torch.empty, torch.zeros, torch.ones)  # by which modules make their parameters


class Unset(TorchFunctionMode):
    """Within it, modules get parameters of `dtype` on `device` and do not initialise them: a file
    fills them soon.

    Initialising billions of numbers takes a minute, and a float32 copy of them twice the memory.
    Tensors made with a dtype of their own, such as position tables, stay as they are. On the device
    "meta" nothing is allocated.
    """

    def __init__(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32):
        super().__init__()
        self.placed = {"device": torch.device(device), "dtype": dtype}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        if func in FACTORIES and kwargs.get("dtype") is None:
            kwargs = {**kwargs, **self.placed}
        return func(*args, **kwargs)
