"""A tiny VaViM checkpoint as Lightning writes it: weights, settings in OmegaConf's containers, and
muP's base shapes, of classes that exist only while it is written.
"""

import sys
import types
from collections import OrderedDict, defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

GOLDEN = Path(__file__).parent / "golden" / "vavim"
NAMES = {
    "omegaconf.dictconfig": ["DictConfig"],
    "omegaconf.base": ["ContainerMetadata", "Metadata"],
    "omegaconf.nodes": ["AnyNode"],
    "mup.infshape": ["InfShape", "InfDim"],
}
NETWORK = {
    "_target_": "vam.video_pretraining.MupGPT2",
    "embedding_dim": 64,
    "dim_heads": 16,
    "nb_layers": 3,
    "mlp_dim_mult": 4,
    "vocabulary_size": 129,
    "nb_timesteps": 5,
    "nb_tokens_per_timestep": 24,
    "output_tied": True,
}


@contextmanager
def official_classes():
    """Classes under the official names, importable inside the block only."""
    before, made = set(sys.modules), {}
    for module, names in NAMES.items():
        for part in (module.split(".")[0], module):
            sys.modules.setdefault(part, types.ModuleType(part))
        for name in names:
            base = tuple if name == "InfShape" else object
            made[name] = type(name, (base,), {"__module__": module})
            setattr(sys.modules[module], name, made[name])
    try:
        yield made
    finally:
        for module in set(sys.modules) - before:
            if module.split(".")[0] in ("omegaconf", "mup"):
                del sys.modules[module]


def filled(kind: type, **attributes: Any) -> Any:
    thing = kind()
    vars(thing).update(attributes)
    return thing


def container(made: dict[str, type], values: dict) -> Any:
    """OmegaConf's DictConfig, whose nodes refer back to it."""
    meta = filled(made["ContainerMetadata"], ref_type=Any, resolver_cache=defaultdict(dict))
    parent = filled(made["DictConfig"], _metadata=meta, _parent=None)
    leaf = filled(made["Metadata"], object_type=None, ref_type=Any)
    vars(parent)["_content"] = {
        name: filled(made["AnyNode"], _val=value, _metadata=leaf, _parent=parent)
        for name, value in values.items()
    }
    return parent


def save_checkpoint(path: Path, state=None, base: int = 256, network=NETWORK, **more) -> Path:
    """Write one. state: its tensors; base: muP's base width; more: further entries."""
    state = OrderedDict(load_file(GOLDEN / "tiny_weights.safetensors") if state is None else state)
    with official_classes() as made:
        dims = [filled(made["InfDim"], base_dim=size, dim=64) for size in (None, base)]
        content = {
            "epoch": 3,
            "global_step": 1000,
            "pytorch-lightning_version": "2.4.0",
            "state_dict": state,
            "loops": {"fit_loop": {"state_dict": {}}},
            "hyper_parameters": {
                "network": container(made, network),
                "mup_base_shapes": "./mup_shapes/gpt2.bsh",
            },
            "mup_base_shapes": {"transformer.wie.weight": made["InfShape"](dims)},
            "git_sha": "0" * 40,
            **more,
        }
        torch.save(content, path)
    return path
