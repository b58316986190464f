"""The preset of a tiny golden model, so that its files load as a user's would."""

from diagd_cli.preset import Preset
from diagd_cli.sections import Clip, Defaults


def preset_of(tokenizer, transformer, height: int, width: int, window: int, **more) -> Preset:
    """Frames of height x width pixels, `window` of them at once."""
    clip = Clip(height=height, width=width, fps=10, context=1, frames=window - 1, window=window)
    parts = {
        "tokenizer": tokenizer,
        "transformer": transformer,
        "clip": clip,
        "decoding": Defaults(k=1),
        **more,
    }
    return Preset(name="golden", about="Tiny, by the official code.", licence="MIT", **parts)
