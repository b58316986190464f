"""WHAM's official files: a Lightning .ckpt or safetensors of the same keys, opened alike, without running anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from diagd_cli.errors import WeightsError
from diagd_cli.weights.torchzip import TorchArchive
from diagd_cli.weights.unpickle import FETCH, StandIn, StoredTensor

NOT_WHAM = "It is no WHAM file, or not a whole one"
# whose classes a checkpoint's bookkeeping may name; none is imported
PACKAGES = ("humanmodelling", "wham", "models", "pytorch_lightning", "lightning", "lightning_fabric", "tensordict")
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


@dataclass
class WhamFile:
    """An official file of either format: shapes by key; `fetch` maps one tensor, `release` gives its memory back.

    `hyper`: what a .ckpt says of itself, {"predictor": {...}, "images": {...}} by its own names; {} for safetensors.
    """

    path: Path
    shapes: dict[str, tuple[int, ...]]
    fetch: Callable[[str], Tensor]
    release: Callable[[str], None] = lambda key: None
    hyper: dict[str, dict] = field(default_factory=dict)

    def matrix(self, key: str) -> tuple[int, int]:
        """Rows and columns of a matrix. Raises WeightsError where there is none of that name."""
        shape = self.shapes.get(key, ())
        if len(shape) != 2:
            raise WeightsError(f"{self.path} lacks the matrix {key}", NOT_WHAM)
        return shape


def open_wham(path: Path) -> WhamFile:
    """Open a Lightning .ckpt or safetensors, told apart by their first bytes. Raises WeightsError."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise WeightsError(f"{path} cannot be read: {reason}", "Check the path and its permissions") from None
    if start.startswith(b"version "):
        raise WeightsError(f"{path} is a Git LFS pointer, not the weights", "Fetch the file that it points to")
    return _open_checkpoint(path) if start.startswith(b"PK") else _open_safetensors(path)


def _open_checkpoint(path: Path) -> WhamFile:
    archive = TorchArchive(path)
    root = archive.unpickle(PACKAGES)
    tensors = root.get("state_dict") if isinstance(root, dict) else None
    if not isinstance(tensors, dict):
        raise WeightsError(f"{path} is no Lightning checkpoint: it has no state_dict", "Give an official WHAM file")
    odd = [
        str(key) for key, value in tensors.items() if not isinstance(key, str) or not isinstance(value, StoredTensor)
    ]
    if odd:
        raise WeightsError(f"{path}: {odd[0]} in its state_dict is no tensor", FETCH)
    return WhamFile(
        path,
        {key: tensor.shape for key, tensor in tensors.items()},
        fetch=lambda key: archive.tensor(tensors[key]),
        release=lambda key: archive.release(tensors[key]),
        hyper=_hyper(root.get("hyper_parameters")),
    )


def _open_safetensors(path: Path) -> WhamFile:
    try:
        file = safe_open(path, "pt")
        return WhamFile(path, {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}, file.get_tensor)  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is neither a .ckpt nor safetensors, or cut off: {error}", FETCH) from None


def _hyper(pickled: Any) -> dict[str, dict]:
    """The useful part of the pickled hyper-parameters, as plain numbers and strings."""
    top = _members(pickled)
    predictor = _members(_members(top.get("predictor_args")).get("pl_kwargs"))
    spec = _members(predictor.get("model_spec")) or _members(_members(top.get("variant")).get("model_spec"))
    images = _members(_members(_members(top.get("context_encoder_args")).get("images")).get("pl_kwargs"))
    variant, model = _members(images.get("variant")), _members(images.get("model_spec"))
    parts = {
        "predictor": {"nanogpt_version": 1, "bias": True, **spec} if spec else {},
        "images": {**model, **_members(variant.get("model_spec")), **variant},
    }
    known = {"predictor": PREDICTOR_FIELDS, "images": tuple(IMAGE_FIELDS)}
    plain = {
        part: {name: fields[name] for name in known[part] if isinstance(fields.get(name), (bool, int, float, str))}
        for part, fields in parts.items()
    }
    return {part: fields for part, fields in plain.items() if fields}


def _members(value: Any) -> dict:
    if isinstance(value, StandIn):
        return {**value.items, **value.attributes}
    return value if isinstance(value, dict) else {}
