"""Decodings as they are written on the command line: `NAME:K:D`, what else is to be different, and whose Transformer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from diagd_cli.cli.options import one_of
from diagd_cli.cli.settings import Settings
from diagd_cli.errors import UsageError, did_you_mean
from diagd_cli.schedule.decoding import METHODS, STAND_INS, Decoding, labels

if TYPE_CHECKING:
    from pathlib import Path

    from diagd_cli.pipeline import Loaded
    from diagd_cli.preset import Preset

WORDS = {"no-repair": {"repair": False}, "zero-slots": {"zero_slots": True}}
WORDS |= {stand_in: {"stand_in": stand_in} for stand_in in STAND_INS}
PLAIN_HINT = "Write NAME, NAME:K or NAME:K:D, such as diagd:2:10"
DECODINGS_HELP = (
    "By comma, each NAME, NAME:K or NAME:K:D; after that :WORD, a stand-in, no-repair or zero-slots; at the end @PRESET, "
    "to run another Transformer with the same tokens."
)


def parse_decoding(text: str, default: Decoding, words: bool = True) -> Decoding:
    """A Decoding from `NAME`, `NAME:K` or `NAME:K:D`, and with `words` any `:WORD`s; the rest from `default`.

    Raises UsageError, and typer.BadParameter for an unknown name.
    """
    name, *parts = text.strip().split(":")
    numbers = [part for part in parts if part.isdecimal()]
    told = parts[len(numbers) :]
    if len(numbers) > 2 or parts != numbers + told or not all(words and word in WORDS for word in told):
        hint = f"{PLAIN_HINT}; after that any of {', '.join(f':{word}' for word in WORDS)}" if words else PLAIN_HINT
        odd = next((word for word in told if word not in WORDS), "")
        raise UsageError(f"Cannot read the decoding {text!r}", did_you_mean(odd, WORDS, hint) if words else hint)
    one_of(name, METHODS, "'--decodings'")
    chosen = dict(zip(("k", "d"), map(int, numbers), strict=False))
    for word in told:
        chosen |= WORDS[word]
    return replace(default, method=name, **chosen)


@dataclass(frozen=True)
class Candidate:
    """What is compared: a decoding by its name among others, and the preset whose Transformer runs it.

    preset: None is the command's own.
    """

    label: str
    decoding: Decoding
    preset: Preset | None = None

    def facts(self, preset: Preset, context: int) -> dict:
        """As reports tell it; preset: the command's own, context: frames."""
        own = self.decoding.facts(preset.grid, preset.latents(context))
        return {**own, **(self.preset.transformer_facts if self.preset else {})}


def parse_candidates(texts: str, preset: Preset, settings: Settings) -> list[Candidate]:
    """The decodings of `DECODING[@PRESET],...`, each once; the settings' decoding says what a text leaves open.

    Another preset must make the same tokens. Raises UsageError, PresetError.
    """
    from diagd_cli.preset import load_preset

    found: dict[tuple, tuple[Decoding, Preset | None]] = {}
    for text in texts.split(","):
        walk, _, name = text.partition("@")
        decoding, other = parse_decoding(walk, settings.decoding), load_preset(name.strip()) if name.strip() else None
        decoding.resolve(preset.grid, preset.latents(settings.context))
        if other:
            from diagd_cli.jobs.evaluate.likelihood import check_same_tokens  # and torch, which takes long

            check_same_tokens(other, preset)
            other.check_frames(settings.context, settings.frames)
        other = None if other == preset else other
        found[decoding, other and other.path] = decoding, other
    pairs = list(found.values())
    names = [
        label + (f", {name_of(other, preset)}" if other else "")
        for label, (_, other) in zip(labels([d for d, _ in pairs], preset.grid), pairs, strict=True)
    ]
    if twice := {name for name in names if names.count(name) > 1}:
        hint = "Name each once, and give each preset a name of its own"
        raise UsageError(f"Two decodings are called {twice.pop()}", hint)
    return [Candidate(name, *pair) for name, pair in zip(names, pairs, strict=True)]


def others_of(candidates: list[Candidate]) -> list[Preset]:
    """The other presets whose Transformers are to be loaded, each once."""
    return list({one.preset.path: one.preset for one in candidates if one.preset}.values())


def name_of(other: Preset, preset: Preset) -> str:
    """What another preset is called beside `preset`: of one that a run has written under the same name, the run's folder."""
    return other.name if other.name != preset.name else other.path.resolve().parent.name


def load_others(
    candidates: list[Candidate], loaded: Loaded, folder: Path | None, random: bool = False
) -> dict[str, Loaded]:
    """The models of those on another preset's Transformer, by label, with the tokenizer of `loaded`; each loaded once.

    random: with made-up weights. Raises WeightsError.
    """
    from diagd_cli.pipeline import load

    weights = {"folder": folder, "random": 0 if random else None, "pixels": False}
    others = {
        preset.path: replace(load(preset, loaded.device, loaded.dtype, **weights), tokenizer=loaded.tokenizer)
        for preset in others_of(candidates)
    }
    return {one.label: others[one.preset.path] for one in candidates if one.preset}
