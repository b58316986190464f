"""What WHAM's Lightning .ckpt says of itself: pickled hyper-parameters, as plain data, without
running anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diagd_cli.checkpoints.archive import pickled
from diagd_cli.checkpoints.unpickle import StandIn

# whose classes a checkpoint's bookkeeping may name; none is imported
PACKAGES = (
    "humanmodelling",
    "wham",
    "models",
    "pytorch_lightning",
    "lightning",
    "lightning_fabric",
    "tensordict",
)
# name in the file's hyper-parameters -> ours
IMAGE_FIELDS = {
    "image_size_per_x_axis": "width",
    "image_size_per_y_axis": "height",
    "patch_size": "patch",
    "transf_dim": "dim",
    "num_layers": "layers",
    "head_size": "head_size",
    "embedding_dim": "code_dim",
    "vocab_size": "codebook",
}
PREDICTOR_FIELDS = ("model_size", "seq_len", "nanogpt_version", "bias")


def hyper_parameters(path: Path) -> dict[str, dict[str, bool | int | float | str]]:
    """What a .ckpt says of itself, by its own names: {"predictor": {...}, "images": {...}}; {} for
    safetensors.

    Raises WeightsError for a file that cannot be read.
    """
    root = pickled(path, PACKAGES)
    return _plain(root.get("hyper_parameters")) if isinstance(root, dict) else {}


def _plain(value: Any) -> dict[str, dict]:
    """The useful part of the hyper-parameters, as plain numbers and strings."""
    top = _members(value)
    predictor = _members(_members(top.get("predictor_args")).get("pl_kwargs"))
    spec = _members(predictor.get("model_spec")) or _members(
        _members(top.get("variant")).get("model_spec")
    )
    images = _members(
        _members(_members(top.get("context_encoder_args")).get("images")).get("pl_kwargs")
    )
    variant, model = _members(images.get("variant")), _members(images.get("model_spec"))
    parts = {
        "predictor": {"nanogpt_version": 1, "bias": True, **spec} if spec else {},
        "images": {**model, **_members(variant.get("model_spec")), **variant},
    }
    known = {"predictor": PREDICTOR_FIELDS, "images": tuple(IMAGE_FIELDS)}
    plain = {
        part: {
            name: fields[name]
            for name in known[part]
            if isinstance(fields.get(name), (bool, int, float, str))
        }
        for part, fields in parts.items()
    }
    return {part: fields for part, fields in plain.items() if fields}


def _members(value: Any) -> dict:
    if isinstance(value, StandIn):
        return {**value.items, **value.attributes}
    return value if isinstance(value, dict) else {}
