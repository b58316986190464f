"""diagd: fast video generation with autoregressive Transformers by Diagonal Decoding.

The Python API is what is named here; docs/python.md shows it at work. Nothing is imported before it is used.
"""

from importlib import import_module

__version__ = "0.1.0"

_PUBLIC = {
    "preset": ("Preset", "load_preset", "preset_names"),
    "weights.load": ("load_transformer", "load_tokenizer", "random_transformer", "random_tokenizer"),
    "schedule.decoding": ("Decoding",),
    "schedule.plan": ("Plan", "build_plan"),
    "tokens.grid": ("Grid",),
    "engine.decode": ("logits", "decode_plan"),
    "engine.sample": ("Sampler",),
    "tokens.sampling": ("Sampling",),
    "engine.session": ("Session",),
    "clip.read": ("read_clip",),
    "loading": ("Loaded", "Request", "load"),
    "pipeline": ("Result", "continue_clip", "continue_clips"),
    "errors": ("DiagdError", "DiagdWarning"),
}
_MODULE = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = ["__version__", *_MODULE]


def __getattr__(name: str):
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
