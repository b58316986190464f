"""Decodings as they are written on the command line: `NAME:K:D`, what else is to be different, and
whose Transformer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from diagd_cli.cli.kinds import one_of
from diagd_cli.errors import UsageError, did_you_mean
from diagd_cli.schedule.decoding import METHODS, STAND_INS, WINDOWS, Decoding, Method, window_of

if TYPE_CHECKING:
    from diagd_cli.jobs.candidates import Candidate
    from diagd_cli.jobs.settings import Settings
    from diagd_cli.preset import Preset

WORDS: dict[str, dict[str, Any]] = {
    "no-repair": {"repair": False},
    "zero-slots": {"zero_slots": True},
}
WORDS |= {word: cast(dict, window_of(word)) for word in WINDOWS}
WORDS["random"] = {"guess": "random"}
WORDS |= {stand_in: {"stand_in": stand_in} for stand_in in STAND_INS}
PLAIN_HINT = "Write NAME, NAME:K or NAME:K:D, such as diagd:2:10"
DECODINGS_HELP = (
    "By comma, each NAME, NAME:K or NAME:K:D; after that :WORD, a stand-in, slide, slide-N, roll, "
    "no-repair or zero-slots; at the end @PRESET, "
    "to run another Transformer with the same tokens."
)


def parse_decoding(text: str, default: Decoding, words: bool = True) -> Decoding:
    """A Decoding from `NAME`, `NAME:K` or `NAME:K:D`, and with `words` any `:WORD`s; the rest from
    `default`.

    Raises UsageError, and typer.BadParameter for an unknown name.
    """
    name, *parts = text.strip().split(":")
    numbers = [part for part in parts if part.isdecimal()]
    told = parts[len(numbers) :]
    if (
        len(numbers) > 2
        or parts != numbers + told
        or not all(words and meaning(word) for word in told)
    ):
        hint = (
            f"{PLAIN_HINT}; after that any of {', '.join(f':{word}' for word in WORDS)}"
            if words
            else PLAIN_HINT
        )
        odd = next((word for word in told if word not in WORDS), "")
        raise UsageError(
            f"Cannot read the decoding {text!r}", did_you_mean(odd, WORDS, hint) if words else hint
        )
    one_of(name, METHODS, "'--decodings'")
    meanings = ("width", "row") if name == "exact" else ("k", "d")
    chosen: dict[str, Any] = dict(zip(meanings, map(int, numbers), strict=False))
    for word in told:
        chosen |= meaning(word) or {}
    return replace(default, method=cast(Method, name), **chosen)


def meaning(word: str) -> dict[str, Any] | None:
    """What a `:WORD` says of a decoding; None for an unknown one."""
    return WORDS.get(word) or window_of(word)


def parse_candidates(texts: str, preset: Preset, settings: Settings) -> list[Candidate]:
    """The decodings of `DECODING[@PRESET],...`, each once; the settings' decoding says what a text
    leaves open.

    Another preset must make the same tokens. Raises UsageError, PresetError.
    """
    from diagd_cli.jobs.candidates import candidates_of, check_same_tokens
    from diagd_cli.preset_files import load_preset

    pairs: list[tuple[Decoding, Preset | None]] = []
    for text in texts.split(","):
        written, _, name = text.partition("@")
        decoding, other = (
            parse_decoding(written, settings.decoding),
            load_preset(name.strip()) if name.strip() else None,
        )
        slides = decoding.window == "slide"
        for model in filter(None, (preset, other)):
            model.check_window(decoding)
        preset.check_frames(settings.context, settings.frames, slides)
        decoding.resolve(preset.grid, preset.latents(settings.context))
        if other:
            check_same_tokens(other, preset)
            other.check_frames(settings.context, settings.frames, slides)
        pairs.append((decoding, other))
    return candidates_of(pairs, preset)
