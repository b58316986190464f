"""What is compared: decodings by their names, and whose Transformer runs each. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from diagd_cli.errors import UsageError
from diagd_cli.preset import Preset
from diagd_cli.schedule.decoding import Decoding, labels


@dataclass(frozen=True)
class Candidate:
    """What is compared: a decoding by its name among others, and the preset whose Transformer runs
    it.

    preset: None is the command's own.
    """

    label: str
    decoding: Decoding
    preset: Preset | None = None

    def facts(self, preset: Preset, context: int) -> dict:
        """As reports tell it; preset: the command's own, context: frames."""
        own = self.decoding.facts(preset.grid, preset.latents(context))
        return {**own, **(self.preset.transformer_facts if self.preset else {})}


def candidates_of(
    pairs: Iterable[tuple[Decoding, Preset | None]], preset: Preset
) -> list[Candidate]:
    """Candidates of decodings and the presets that run them, each once, with names that tell them
    apart.

    Raises UsageError where two would have the same name.
    """
    found: dict[tuple, tuple[Decoding, Preset | None]] = {}
    for decoding, other in pairs:
        other = None if other == preset else other
        found[decoding, other and other.path] = decoding, other
    own = list(found.values())
    names = [
        label + (f", {name_of(other, preset)}" if other else "")
        for label, (_, other) in zip(labels([d for d, _ in own], preset.grid), own, strict=True)
    ]
    if twice := {name for name in names if names.count(name) > 1}:
        hint = "Name each once, and give each preset a name of its own"
        raise UsageError(f"Two decodings are called {twice.pop()}", hint)
    return [Candidate(name, *pair) for name, pair in zip(names, own, strict=True)]


def others_of(candidates: Sequence[Candidate]) -> list[Preset]:
    """The other presets whose Transformers are to be loaded, each once."""
    return list({one.preset.path: one.preset for one in candidates if one.preset}.values())


def name_of(other: Preset, preset: Preset) -> str:
    """What another preset is called beside `preset`: of one that a run has written under the same
    name, the run's folder.
    """
    same = other.name == preset.name and other.path
    return other.path.resolve().parent.name if same and other.path else other.name


def check_same_tokens(other: Preset, preset: Preset) -> None:
    """Raise UsageError unless `other` knows the tokens that `preset` makes: the same codes, grid,
    actions and text.
    """
    parts = ("tokenizer", "grid", "actions", "prefix", "text")
    differs = [name for name in parts if getattr(other, name) != getattr(preset, name)]
    if differs or other.weight_keys["tokenizer"] != preset.weight_keys["tokenizer"]:
        what = (
            f"The preset {other.name} differs from {preset.name} in "
            f"{', '.join(differs) or 'tokenizer_weights'}"
        )
        raise UsageError(what, "Name one that differs in the Transformer alone")
