"""Parameters that are allocated once, where and as they are wanted, and not initialised."""

import torch
from torch import nn

from diagd_cli.model.norm import RMSNorm
from diagd_cli.model.unset import Unset


def make() -> nn.ModuleDict:
    model = nn.ModuleDict(
        {
            "linear": nn.Linear(3, 4),
            "conv": nn.Conv3d(2, 3, 1),
            "embedding": nn.Embedding(5, 6),
            "layer": nn.LayerNorm(7),
            "group": nn.GroupNorm(2, 4),
            "rms": RMSNorm(8, 1e-5),
        }
    )
    model.register_buffer("table", torch.arange(3, dtype=torch.float32).cos())
    model.register_buffer("indices", torch.tensor([1, 2]))
    return model


def test_parameters_have_the_dtype_and_tables_keep_theirs():
    with Unset(dtype=torch.bfloat16):
        model = make()
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert (model.table.dtype, model.indices.dtype) == (torch.float32, torch.int64)
    assert model.indices.tolist() == [1, 2] and model.table[0] == 1
    assert {n: p.shape for n, p in model.named_parameters()} == {
        n: p.shape for n, p in make().named_parameters()
    }


def test_nothing_is_drawn():
    before = torch.get_rng_state()
    with Unset():
        make()
    assert torch.equal(torch.get_rng_state(), before)
    make()
    assert not torch.equal(torch.get_rng_state(), before)


def test_shapes_alone():
    with Unset("meta"):
        model = make()
    assert all(p.is_meta for p in model.parameters())
    assert model.table.device.type == "cpu"
