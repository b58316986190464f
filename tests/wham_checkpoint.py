"""A tiny WHAM checkpoint as Lightning writes it: weights, optimizer state, and hyper-parameters of
classes that exist only while it is written.
"""

import sys
import types
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file

GOLDEN = Path(__file__).parent / "golden" / "wham"

ARGS = "models.wham_base.pl_creation_args", "LightningModuleCreationArgs"
IMAGES = "models.vqgan.vqgan", "VQGANModel"
PREDICTOR = "models.wham_token_model.gpt_token_transformer_predictor", "GPTTokenPredictor"
ACTIONS = "models.wham_token_model.token_action_encoder", "ActionTokenEncoder"

IMAGE_SPEC = {
    "image_size_per_x_axis": 50,
    "image_size_per_y_axis": 30,
    "patch_size": 10,
    "transf_dim": 32,
    "embedding_dim": 8,
    "num_layers": 2,
    "head_size": 8,
    "vocab_size": 32,
    "commitment_cost": 0.25,
    "is_perceptual": False,
    "use_gan": False,
}
PREDICTOR_SPEC = {"model_size": "tiny", "seq_len": 4, "nanogpt_version": 1, "bias": True}


@contextmanager
def official_classes(package: str):
    """Classes under the official names, importable inside the block only."""
    before = set(sys.modules)
    made = {}
    for module, name in (ARGS, IMAGES, PREDICTOR, ACTIONS):
        parts = f"{package}.{module}".split(".")
        for depth in range(1, len(parts) + 1):
            sys.modules.setdefault(
                ".".join(parts[:depth]), types.ModuleType(".".join(parts[:depth]))
            )
        made[name] = type(name, (), {"__module__": ".".join(parts)})
        setattr(sys.modules[".".join(parts)], name, made[name])
    try:
        yield made
    finally:
        for module in set(sys.modules) - before:
            if module.split(".")[0] == package:
                del sys.modules[module]


def lightning_checkpoint(
    package: str = "humanmodelling", image_spec=None, predictor_spec=None, **more
) -> dict:
    """The top-level entries; `official_classes` must be open. `more` is added to them."""
    state = OrderedDict(load_file(GOLDEN / "tiny_v1_weights.safetensors"))
    state["predictor.gpt_model.lm_head.weight"] = state[
        "predictor.gpt_model.transformer.wte.weight"
    ]
    moments = {
        i: {"step": torch.tensor(5.0), "exp_avg": tensor.clone()}
        for i, tensor in enumerate(state.values())
    }

    def arguments(place, **kwargs):
        args = vars(sys.modules[f"{package}.{ARGS[0]}"])[ARGS[1]]()
        args.pl_class = vars(sys.modules[f"{package}.{place[0]}"])[place[1]]
        args.pl_checkpoint_path, args.pl_stored_params_override = None, {}
        args.pl_kwargs = kwargs
        return args

    return {
        "epoch": 3,
        "global_step": 1000,
        "pytorch-lightning_version": "1.9.4",
        "state_dict": state,
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {
            "ModelCheckpoint{'monitor': None}": {
                "best_model_score": torch.tensor(2.5),
                "kept": {"a.ckpt"},
            }
        },
        "optimizer_states": [
            {"state": moments, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.95)}]}
        ],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {
            "predictor_args": arguments(PREDICTOR, model_spec=predictor_spec or PREDICTOR_SPEC),
            "context_encoder_args": {
                "images": arguments(IMAGES, variant={"model_spec": image_spec or IMAGE_SPEC}),
                "actions_output": arguments(ACTIONS),
            },
            "variant": {"model_spec": predictor_spec or PREDICTOR_SPEC},
        },
        **more,
    }


def save_checkpoint(path: Path, package: str = "humanmodelling", **options) -> Path:
    """Write a checkpoint; the classes that it names are gone afterwards."""
    with official_classes(package):
        torch.save(lightning_checkpoint(package, **options), path)
    return path
