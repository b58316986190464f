"""diagd: fast video generation with autoregressive Transformers by Diagonal Decoding.

The Python API is what is named here; docs/python.md shows it at work. Nothing is imported before it
is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what `__getattr__` finds, for type checkers and editors
    from diagd_cli.clip.read import Clip as Clip
    from diagd_cli.clip.read import read_clip as read_clip
    from diagd_cli.engine.decode import decode_plan as decode_plan
    from diagd_cli.engine.decode import logits as logits
    from diagd_cli.engine.sample import Sampler as Sampler
    from diagd_cli.engine.session import Session as Session
    from diagd_cli.errors import DiagdError as DiagdError
    from diagd_cli.errors import DiagdWarning as DiagdWarning
    from diagd_cli.loading import Loaded as Loaded
    from diagd_cli.loading import Request as Request
    from diagd_cli.loading import load as load
    from diagd_cli.model.contract import Model as Model
    from diagd_cli.model.mask import Mask as Mask
    from diagd_cli.pipeline import Result as Result
    from diagd_cli.pipeline import continue_clip as continue_clip
    from diagd_cli.pipeline import continue_clips as continue_clips
    from diagd_cli.play.mount import play_app as play_app
    from diagd_cli.preset import Preset as Preset
    from diagd_cli.preset_files import load_preset as load_preset
    from diagd_cli.preset_files import preset_names as preset_names
    from diagd_cli.schedule.decoding import Decoding as Decoding
    from diagd_cli.schedule.plan import Plan as Plan
    from diagd_cli.schedule.plan import build_plan as build_plan
    from diagd_cli.tokens.grid import Grid as Grid
    from diagd_cli.tokens.sampling import Sampling as Sampling
    from diagd_cli.weights.load import load_tokenizer as load_tokenizer
    from diagd_cli.weights.load import load_transformer as load_transformer
    from diagd_cli.weights.load import random_tokenizer as random_tokenizer
    from diagd_cli.weights.load import random_transformer as random_transformer

__version__ = "0.1.0"

_PUBLIC = {
    "preset": ("Preset",),
    "preset_files": ("load_preset", "preset_names"),
    "weights.load": (
        "load_transformer",
        "load_tokenizer",
        "random_transformer",
        "random_tokenizer",
    ),
    "schedule.decoding": ("Decoding",),
    "schedule.plan": ("Plan", "build_plan"),
    "tokens.grid": ("Grid",),
    "engine.decode": ("logits", "decode_plan"),
    "engine.sample": ("Sampler",),
    "tokens.sampling": ("Sampling",),
    "engine.session": ("Session",),
    "clip.read": ("Clip", "read_clip"),
    "loading": ("Loaded", "Request", "load"),
    "pipeline": ("Result", "continue_clip", "continue_clips"),
    "errors": ("DiagdError", "DiagdWarning"),
    "model.contract": ("Model",),
    "model.mask": ("Mask",),
    "play.mount": ("play_app",),
}
_MODULE = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = ["__version__", *_MODULE]


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
