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
from diagd_cli.tokens.text import embed_prompts, encoder_folder, prompt_of, read_embedding
from diagd_cli.weights.locate import digest

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Prompts:
    """The prompt of each clip, or one embedding for all; empty for a preset that takes no text.

    others: prompts that single videos have for their own.
    """

    preset: Preset
    texts: dict[Path, str] = field(default_factory=dict)
    others: Collection[str] = ()
    embedding: Path | None = None
    embedded: dict[str, Tensor] = field(default_factory=dict)

    def about(self, clip: Path, own: str | None = None) -> dict:
        """What a sidecar says of a clip's text, or of a video's own."""
        if self.embedding:
            return {"prompt_embedding": digest(self.embedding)}
        text = self.texts.get(clip) if own is None else own
        return {} if text is None else {"prompt": text}

    def embed(self, progress: Progress) -> None:
        """Run the text encoder for every prompt, before the Transformer needs the memory. Raises
        DiagdError.
        """
        wanted = {""} if self.embedding else {*self.texts.values(), *self.others}
        if wanted - self.embedded.keys():
            with progress.stage("reading the prompt"):
                self.embedded = self._embeddings(progress)

    def _embeddings(self, progress: Progress) -> dict[str, Tensor]:
        text, dim = self.preset.text, self.preset.transformer.cross_dim
        assert text is not None  # where there are prompts
        if self.embedding:
            return {"": read_embedding(self.embedding, text.length, dim)}
        beside = encoder_folder(self.preset)
        encoder = str(beside) if beside else text.encoder
        prompts = list(dict.fromkeys([*self.texts.values(), *self.others]))
        found = embed_prompts(
            prompts, text.model_copy(update={"encoder": encoder}), dim, report=progress.note
        )
        return dict(zip(prompts, found, strict=True))

    def of(self, clip: Path, own: str | None = None) -> Tensor | None:
        """The embedding float32 [length, cross_dim] of a clip's text, or of a video's own; None for
        a preset without text.
        """
        text = self.texts.get(clip, "") if own is None else own
        return self.embedded.get("" if self.embedding else text)


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
        hint = "Leave it out, or use a video2world preset"
        raise UsageError(f"The preset {preset.name} takes no text, and {given[0]} gives one", hint)
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} both give the prompt", "Give one of them")
    if preset.text is None or embedding:
        return Prompts(preset, embedding=embedding)
    shared, texts = prompt_of(prompt, prompt_file), {}
    for clip in clips:
        beside = clip.with_suffix(".txt")
        own = prompt_of(None, beside) if shared is None and os.path.isfile(beside) else shared
        if own is not None:
            texts[clip] = own
        elif not random:
            hint = (
                "Give --prompt TEXT, --prompt-file FILE, --prompt-embedding FILE, or write "
                f"{beside}"
            )
            raise UsageError(f"The preset {preset.name} needs a prompt for {clip}", hint)
    return Prompts(preset, texts, others)
