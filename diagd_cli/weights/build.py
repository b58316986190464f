"""A preset's models without a file: with unset weights, or with random ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from diagd_cli import families
from diagd_cli.errors import WeightsError
from diagd_cli.model.eight_bits import BY_DTYPE
from diagd_cli.model.inverse import InverseDynamics
from diagd_cli.model.linear import Linear
from diagd_cli.model.transformer import Block, Transformer, deviation
from diagd_cli.model.unset import Unset
from diagd_cli.preset import Preset

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

Module = TypeVar("Module", bound=nn.Module)
# numbers drawn; a prime, so that no two rows of a matrix are the same stretch of them
NOISE = 1_048_583
WIDEST = 6.0  # deviations: none of them is further out


def build_transformer(
    preset: Preset,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    weights: str = "",
    mesh: DeviceMesh | None = None,
) -> Transformer:
    """The preset's Transformer with unset weights; its tables reach one position past the window
    (padding's scratch slot).

    weights: how its blocks hold their matrices, a name of `eight_bits.FORMATS`; "" is in dtype. The
        embedding and the last product are always in dtype.
    mesh: of processes that hold it together, of which this one gets its share; see
        `model.parallel`.
    """
    coords = torch.from_numpy(preset.grid.coords(preset.positions))
    with Unset("meta" if mesh else device, dtype):
        model = Transformer(preset.transformer, coords, preset.grid.prefix)
    if mesh:
        from diagd_cli.model.parallel import parallelize  # and DTensor, which takes a second

        parallelize(model, mesh, device)
    for layer in model.blocks.modules() if weights else ():
        if isinstance(layer, Linear):
            layer.hold(weights)
    return model.to(device)  # the tables


def build_tokenizer(
    preset: Preset, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> nn.Module:
    """The preset's tokenizer with unset weights."""
    kind = families.tokenizer_kind(preset.tokenizer.kind)
    with Unset(device, dtype):
        model = kind.build(preset.tokenizer)
    model = model.to(device)
    if kind.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch has left it out
    return model


def build_inverse(
    preset: Preset, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> InverseDynamics:
    """The preset's inverse dynamics with unset weights. Raises WeightsError where there are no
    actions that it could read.
    """
    if not preset.actions or not preset.actions.names:
        raise WeightsError(
            f"The preset {preset.name} has no named actions", "Remove inverse_weights from it"
        )
    with Unset(device, dtype):
        return InverseDynamics(len(preset.actions.names))


def random_transformer(
    preset: Preset,
    seed: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    weights: str = "",
    mesh: DeviceMesh | None = None,
) -> Transformer:
    """The preset's Transformer with random weights of the usual scale, a function of the seed, and
    of the number of processes in a `mesh`; for inference.
    """
    model = build_transformer(preset, device, dtype, weights, mesh)
    layers = sum(isinstance(module, Block) for module in model.modules())
    return _random(model, seed, lambda name, p: deviation(name, layers))


def random_tokenizer(
    preset: Preset,
    seed: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """The preset's tokenizer with random weights that keep the scale of what they are applied to;
    for inference.
    """
    return _random(
        build_tokenizer(preset, device, dtype), seed, lambda name, p: p[0].numel() ** -0.5
    )


@torch.no_grad()
def _random(model: Module, seed: int, scale: Callable[[str, torch.Tensor], float]) -> Module:
    """Fill matrices with normal noise of the deviation scale(name, parameter), norms with ones,
    biases with zeros.

    One run of noise serves all, each time from another place in it: drawing billions of numbers
    takes a minute.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(NOISE, generator=generator)
    own = dict(model.named_parameters())
    for name, p in own.items():
        if p.ndim == 1:
            p.fill_(1.0 if name.endswith("weight") else 0.0)
            continue
        if name.endswith("scale"):
            weight = f"{name.removesuffix('scale')}weight"
            p.fill_(scale(weight, p) / _steps(own[weight].dtype))
            continue
        start = int(torch.randint(NOISE, (), generator=generator))
        size = _steps(p.dtype) if p.dtype in BY_DTYPE else scale(name, p)
        block = noise.roll(start) * size
        block = (block.round_() if p.dtype == torch.int8 else block).to(p.device, p.dtype)
        flat = p.as_strided((p.numel(),), (1,))  # in the order of memory, whatever that is
        whole = p.numel() // NOISE * NOISE
        flat[:whole].view(-1, NOISE).copy_(block)
        flat[whole:].copy_(block[: p.numel() - whole])
    return model.eval().requires_grad_(False)


def _steps(dtype: torch.dtype) -> float:
    """What noise of deviation 1 is multiplied by in 8 bits, so that none of it is cut off."""
    return BY_DTYPE[dtype].largest / WIDEST
