"""What must hold between the sections of a preset, each of which is right by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diagd_cli.preset import Preset

MOST_POSITIONS = 1 << 18  # of a window: each takes a row of the model's tables


def check_sections(preset: Preset) -> None:
    """Raise ValueError, in words for the reader of a preset, for sections that do not fit."""
    _check_size(preset)
    _check_tokens(preset)
    if bool(preset.text) != bool(preset.transformer.text_dim):
        raise ValueError(
            "text and transformer.cross_dim or prefix_dim go together: one is set, the other is not"
        )
    tokens, length = preset.transformer.prefix_tokens, preset.text.length if preset.text else 0
    if tokens and tokens != length:
        raise ValueError(f"transformer.prefix_tokens ({tokens}) must be text.length ({length})")
    if preset.prefix and tokens:
        raise ValueError(
            f"prefix has {len(preset.prefix)} ids, where the text is the prefix: leave them out"
        )
    if preset.actions and preset.tokenizer.temporal > 1:
        raise ValueError("actions need a tokenizer with one latent frame a frame")


def _check_size(preset: Preset) -> None:
    clip, tokenizer = preset.clip, preset.tokenizer
    for name, size in (("height", clip.height), ("width", clip.width)):
        fixed = getattr(tokenizer, name, None)
        if fixed and size != fixed:
            raise ValueError(f"clip.{name} ({size}) must be the tokenizer's ({fixed})")
        if not fixed and size % tokenizer.spatial:
            side = tokenizer.spatial
            raise ValueError(
                f"clip.{name} ({size}) must be a multiple of {side}, the tokenizer's pixels a token"
            )
    for name in ("context", "least", "window", "overlap"):
        frames = getattr(clip, name)
        if frames and (frames - 1) % tokenizer.temporal:
            raise ValueError(
                f"clip.{name} ({frames}) must be 1 + n*{tokenizer.temporal}, whole latent frames"
            )
    if not clip.least and not (preset.grid.prefix and (tokenizer.temporal == 1 or preset.still)):
        raise ValueError(
            "clip.least 0 needs a prefix, and a tokenizer of single frames or a window of one"
        )
    if preset.positions > MOST_POSITIONS:
        raise ValueError(
            f"clip.window ({clip.window}) makes {preset.positions} positions, above "
            f"{MOST_POSITIONS}"
        )
    if clip.overlap and tokenizer.temporal > 1:
        raise ValueError(
            "clip.overlap must be 0: the first latent frame of a window stands for one frame only"
        )


def _check_tokens(preset: Preset) -> None:
    codes, actions = preset.tokenizer.codebook, preset.actions
    needed = max(
        [
            codes,
            actions.offset + actions.vocabulary if actions else 0,
            *(i + 1 for i in (*preset.prefix, *preset.row_end, *preset.frame_end)),
            *(i + 1 for i in (preset.guidance.nothing if preset.guidance else ())),
            preset.labels.offset + preset.labels.count if preset.labels else 0,
            *(i + 1 for i in (preset.prompt.ids if preset.prompt else ())),
        ]
    )
    if preset.transformer.vocab < needed:
        raise ValueError(
            f"transformer.vocab ({preset.transformer.vocab}) is below the {needed} tokens in use"
        )
    if preset.transformer.logits < codes:
        raise ValueError(
            f"transformer.outputs ({preset.transformer.outputs}) is below the "
            f"tokenizer's {codes} codes"
        )
    places = preset.transformer.positions.places
    if places and (places != preset.grid.block or preset.prefix):
        raise ValueError(
            f"transformer.positions.places ({places}) must be the {preset.grid.block} tokens "
            "of a frame, and nothing be before the first"
        )
    if preset.prompt and (preset.prefix or preset.text or preset.labels):
        raise ValueError("a prompt is all of the prefix: leave prefix, text and labels out")
    if preset.labels and not preset.prefix:
        raise ValueError("labels are the last id of a prefix, and there is none")
    if preset.guidance and len(preset.guidance.nothing) != len(preset.prefix):
        raise ValueError(
            f"guidance.nothing has {len(preset.guidance.nothing)} ids, the prefix "
            f"{len(preset.prefix)}"
        )
    if actions and actions.offset < codes:
        raise ValueError(
            f"actions.offset ({actions.offset}) lies within the tokenizer's {codes} codes"
        )
    if preset.decoding.first >= codes:
        raise ValueError(
            f"decoding.first ({preset.decoding.first}) leaves none of the {codes} codes"
        )
