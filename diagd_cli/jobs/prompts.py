"""Text that steers clips: from the command line, or from CLIP.txt beside each clip; embedded once
for all of them.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from diagd_cli.errors import UsageError
from diagd_cli.jobs.settings import Steering
from diagd_cli.preset import Preset
from diagd_cli.progress import Progress
from diagd_cli.tokens.caption import clean
from diagd_cli.tokens.text import embed_prompts, encoder_folder, prompt_of, read_embedding
from diagd_cli.weights.locate import digest

if TYPE_CHECKING:
    from torch import Tensor


GIVEN = "\0"  # in place of a text whose embedding is given: no command line has it


@dataclass
class Prompts:
    """The prompt of each clip, or one embedding for all; empty for a preset that takes no text.

    others: prompts that single videos have for their own.
    negative: what all are kept away from; None for nothing in particular.
    """

    preset: Preset
    texts: dict[Path, str] = field(default_factory=dict)
    others: Collection[str] = ()
    embedding: Path | None = None
    embedded: dict[str, Tensor] = field(default_factory=dict)
    negative: str | None = None

    def about(self, clip: Path, own: str | None = None) -> dict:
        """What a sidecar says of a clip's text, or of a video's own."""
        negative = {} if self.negative is None else {"negative_prompt": self.negative}
        if self.embedding:
            return {"prompt_embedding": digest(self.embedding), **negative}
        text = self.texts.get(clip) if own is None else own
        return negative if text is None else {"prompt": text, **negative}

    def embed(self, progress: Progress) -> None:
        """Run the text encoder for every prompt, before the Transformer needs the memory. Raises
        DiagdError.
        """
        wanted = {GIVEN} if self.embedding else set(self._texts)
        wanted |= set(self._negative)
        if wanted - self.embedded.keys():
            with progress.stage("reading the prompt"):
                self.embedded = self._embeddings(progress)

    def _embeddings(self, progress: Progress) -> dict[str, Tensor]:
        text, dim = self.preset.text, self.preset.transformer.text_dim
        assert text is not None  # where there are prompts
        found = {}
        if self.embedding:
            found[GIVEN] = read_embedding(self.embedding, text.length, dim)
        prompts = [*([] if self.embedding else self._texts), *self._negative]
        if not prompts:
            return found
        beside = encoder_folder(self.preset)
        encoder = str(beside) if beside else text.encoder
        own = text.model_copy(update={"encoder": encoder})
        words = [clean(prompt) if text.cleaned else prompt for prompt in prompts]
        rows = embed_prompts(words, own, dim, report=progress.note)
        return found | dict(zip(prompts, rows, strict=True))

    @property
    def _texts(self) -> list[str]:
        return list(dict.fromkeys([*self.texts.values(), *self.others]))

    @property
    def _negative(self) -> list[str]:
        return [] if self.negative is None else [self.negative]

    def of(self, clip: Path, own: str | None = None) -> Tensor | None:
        """The embedding float32 [length, text_dim] of a clip's text, or of a video's own; None for
        a preset without text.
        """
        text = self.texts.get(clip, GIVEN) if own is None else own
        return self.embedded.get(GIVEN if self.embedding else text)

    @property
    def kept_from(self) -> Tensor | None:
        """The embedding of the negative prompt."""
        return None if self.negative is None else self.embedded.get(self.negative)


def find_prompts(
    preset: Preset,
    clips: list[Path],
    steering: Steering = Steering(),
    random: bool = False,
    others: Collection[str] = (),
) -> Prompts:
    """The prompts of the clips; with `random` weights they need none. `others`: prompts that a
    manifest gives single videos for their own.

    Raises UsageError where one is missing, given twice, or not wanted.
    """
    prompt, prompt_file, embedding = (
        steering.prompt,
        steering.prompt_file,
        steering.prompt_embedding,
    )
    given = [
        name
        for name, value in (("--prompt", prompt), ("--prompt-file", prompt_file))
        if value is not None
    ]
    given += ["--prompt-embedding"] if embedding else []
    given += ["the manifest"] if others and (embedding or preset.text is None) else []
    if preset.text is None and given:
        hint = "Leave it out, or use a preset that text steers"
        raise UsageError(f"The preset {preset.name} takes no text, and {given[0]} gives one", hint)
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} both give the prompt", "Give one of them")
    negative = _negative_of(preset, steering)
    if preset.text is None or embedding:
        return Prompts(preset, embedding=embedding, negative=negative)
    shared, texts = prompt_of(prompt, prompt_file), {}
    for clip in clips:
        beside = None if preset.still else clip.with_suffix(".txt")  # an image is of no clip
        found = shared is None and beside and os.path.isfile(beside)
        own = prompt_of(None, beside) if found else shared
        if own is not None:
            texts[clip] = own
        elif not random:
            last = f", --prompt-embedding FILE, or write {beside}"
            hint = "Give --prompt TEXT, --prompt-file FILE"
            hint += last if beside else " or --prompt-embedding FILE"
            raise UsageError(f"The preset {preset.name} needs a prompt for {clip}", hint)
    return Prompts(preset, texts, others, negative=negative)


def _negative_of(preset: Preset, steering: Steering) -> str | None:
    """The negative prompt. Raises UsageError where there is neither text nor guidance."""
    negative = prompt_of(steering.negative_prompt, None)
    if negative is not None and not (preset.text and preset.guidance):
        what = "guidance" if preset.text else "text"
        message = f"The preset {preset.name} has no {what}, and --negative-prompt needs it"
        raise UsageError(message, "Leave it out")
    return negative
