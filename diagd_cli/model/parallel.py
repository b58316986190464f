"""Tensor parallelism: one Transformer whose blocks several processes hold together, by torch's
`parallelize_module`.

Of what heads and the MLP are made of, queries, keys, values and gates, each process has its share:
heads h/N, and with them their part of the cache. What joins them again, `out` and `down`, has its
inputs split; its products are summed over the processes, the one exchange of attention and of the
MLP (Shoeybi et al. 2019, Megatron-LM, arXiv:1909.08053). Embedding, norms and output layer are in
every process, which so has the same logits, and draws the same tokens.

DTensor splits the parameters; then each process works on its own as on any others, in whatever
product suits them: DTensor itself knows neither packed weights nor the cache, and costs more time
an operation than a step of few tokens has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import ParallelStyle, parallelize_module

from diagd_cli.model.attention import Attention, CrossAttention
from diagd_cli.model.config import TransformerConfig
from diagd_cli.model.eight_bits import Scaled
from diagd_cli.model.transformer import Transformer

Pieces = list[Tensor | Scaled]  # of a parameter: one under the other they are its rows


@dataclass
class Columns(ParallelStyle):
    """Split a layer's outputs.

    sections: sizes of what lies one under the other in its weight, such as queries, keys and
        values. A process has its share of each.
    """

    sections: tuple[int, ...]

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        # Shard takes rows that follow one another, so that the whole is thought of as laid out by
        # process: it exists nowhere
        return distribute_module(module, device_mesh, _sharding(Shard(0)))

    def own(self, name: str, pieces: Pieces, mesh: DeviceMesh) -> Pieces:
        """This process's share of the rows of a parameter."""
        wanted, start = [], 0
        for size in self.sections:
            share = size // mesh.size()
            first = start + mesh.get_local_rank() * share
            wanted += _rows(pieces, first, first + share)
            start += size
        return wanted


@dataclass
class Rows(ParallelStyle):
    """Split a layer's inputs, and sum its outputs over the processes."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        group, first = device_mesh.get_group(), device_mesh.get_local_rank() == 0

        def summed(module: nn.Module, given: tuple[Tensor, ...], y: Tensor) -> Tensor:
            y = y.contiguous()
            dist.all_reduce(y, group=group)
            return y

        if not first:  # the residual stream is added once
            module.register_forward_pre_hook(lambda module, given: given[:1])
        module.register_forward_hook(summed)
        return distribute_module(module, device_mesh, _sharding(Shard(1)))

    def own(self, name: str, pieces: Pieces, mesh: DeviceMesh) -> Pieces:
        """This process's share of the columns of a weight; the bias, which is added once."""
        if name.endswith("bias"):
            once = mesh.get_local_rank() == 0
            return [p if once else torch.zeros_like(p) for p in pieces if isinstance(p, Tensor)]
        return [_columns(piece, mesh) for piece in pieces]


Plan = dict[str, Columns | Rows]


def plan_of(config: TransformerConfig) -> Plan:
    """How the layers of a block are split, by name; what is not named is in every process.

    config: of the whole.
    """
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    gates = 2 if config.activation == "swiglu" else 1
    cross: Plan = {
        "cross.q": Columns((queries,)),
        "cross.kv": Columns((keys, keys)),
        "cross.out": Rows(),
    }
    return {
        "attention.qkv": Columns((queries, keys, keys)),
        "attention.out": Rows(),
        **(cross if config.cross_dim else {}),
        "mlp.up": Columns((config.mlp_dim,) * gates),
        "mlp.down": Rows(),
    }


def parallelize(
    model: Transformer, mesh: DeviceMesh, device: torch.device | str = "cpu"
) -> Transformer:
    """Have a Transformer on the device "meta" be this process's share, on a device, of parameters
    that are left unset; the buffers stay where they are.

    mesh: one dimension, of as many processes as hold it together. All of them do this.

    Raises ValueError where it cannot be split so.
    """
    own, plan = model.config.split(mesh.size()), plan_of(model.config)
    for block in model.blocks:
        parallelize_module(block, mesh, {**plan})
        for layer in block.children():
            if isinstance(layer, (Attention, CrossAttention)):
                layer.heads, layer.kv_heads = own.heads, own.kv_heads
    model.config = own
    _materialise(model, device)
    return model


def own_parts(
    tensors: Iterable[tuple[str, Pieces]], config: TransformerConfig, mesh: DeviceMesh
) -> Iterator[tuple[str, Pieces]]:
    """Of the tensors that make the parameters of a whole Transformer, by name, this process's
    share. They are views: of a mapped file nothing else is read.
    """
    plan = plan_of(config)
    for name, pieces in tensors:
        layer = ".".join(name.split(".")[2:4])  # of blocks.N.attention.qkv.weight
        split = plan.get(layer) if name.startswith("blocks.") else None
        yield name, split.own(name, pieces, mesh) if split else pieces


def _sharding(placement: Placement) -> Callable[[str, nn.Module, DeviceMesh], None]:
    """Splits the weight and, where it is by outputs, the bias."""

    def shard(name: str, module: nn.Module, mesh: DeviceMesh) -> None:
        for key, parameter in module.named_parameters(recurse=False):
            if placement.is_shard(0) or parameter.ndim > 1:
                split = distribute_tensor(parameter, mesh, [placement])
                module.register_parameter(key, nn.Parameter(split, requires_grad=False))

    return shard


def _materialise(model: nn.Module, device: torch.device | str) -> None:
    """Give every parameter memory: of one that is split, its part; once for those that share it."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
            if id(parameter) not in made:
                empty = torch.empty_like(local, device=device)
                made[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
            module.register_parameter(name, made[id(parameter)])


def _rows(pieces: Pieces, first: int, end: int) -> Pieces:
    """Rows first .. end-1 of what lies one under the other."""
    found: Pieces = []
    for piece in pieces:
        part = slice(max(0, first), max(0, min(end, len(piece))))
        if part.start < part.stop:
            found.append(
                Scaled(*(each[part] for each in piece))
                if isinstance(piece, Scaled)
                else piece[part]
            )
        first, end = first - len(piece), end - len(piece)
    return found


def _columns(piece: Tensor | Scaled, mesh: DeviceMesh) -> Tensor | Scaled:
    if isinstance(piece, Scaled):
        own = piece.values.chunk(mesh.size(), dim=1)[mesh.get_local_rank()]
        return Scaled(own, piece.scale)
    return piece.chunk(mesh.size(), dim=1)[mesh.get_local_rank()]
