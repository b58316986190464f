"""Text that steers clips: from the command line, or from CLIP.txt beside each clip; embedded once
for all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from diagd_cli.errors import UsageError
from diagd_cli.files.remote import is_file, local
from diagd_cli.files.url import Place
from diagd_cli.jobs.settings import Steering
from diagd_cli.preset import Preset
from diagd_cli.progress import Progress
from diagd_cli.tokens.caption import clean
from diagd_cli.tokens.template import TEXT, prompt_ids, read_words
from diagd_cli.tokens.text import embed_prompts, encoder_folder, prompt_of, read_embedding
from diagd_cli.weights.locate import digest, locate, verify

if TYPE_CHECKING:
    from torch import Tensor

    from diagd_cli.sections import Prompt


# in place of a text whose embedding is given, and of the negative prompt: no command line has them
GIVEN, AWAY = "\0", "\1"


@dataclass
class Prompts:
    """The prompt of each clip, or one embedding for all; empty for a preset that takes no text.

    others: prompts that single videos have for their own.
    negative: what all are kept away from; None for nothing in particular.
    folder: where the preset's own tokenizer of text is looked for first.
    """

    preset: Preset
    texts: dict[Place, str] = field(default_factory=dict)
    others: Collection[str] = ()
    embedding: Path | None = None
    embedded: dict[str, Tensor] = field(default_factory=dict)
    negative: str | None = None
    folder: Path | None = None

    def about(self, clip: Place, own: str | None = None) -> dict:
        """What a sidecar says of a clip's text, or of a video's own."""
        negative = {} if self.negative is None else {"negative_prompt": self.negative}
        if self.embedding:
            return {"prompt_embedding": digest(self.embedding), **negative}
        text = self.texts.get(clip) if own is None else own
        return negative if text is None else {"prompt": text, **negative}

    def embed(self, progress: Progress) -> None:
        """Run the text encoder for every prompt, before the Transformer needs the memory; or make
        ids of it. Raises DiagdError.
        """
        wanted = {GIVEN} if self.embedding else set()
        if (wanted | self._texts.keys()) - self.embedded.keys():
            with progress.stage("reading the prompt"):
                self.embedded = self._embeddings(progress)

    def _embeddings(self, progress: Progress) -> dict[str, Tensor]:
        text, dim = self.preset.text, self.preset.transformer.text_dim
        if self.preset.prompt:
            return self._ids(self.preset.prompt)
        assert text is not None  # where there are prompts
        found = {}
        if self.embedding:
            found[GIVEN] = read_embedding(self.embedding, text.length, dim)
        if not self._texts:
            return found
        beside = encoder_folder(self.preset)
        encoder = str(beside) if beside else text.encoder
        own = text.model_copy(update={"encoder": encoder})
        words = [clean(one) if text.cleaned else one for one in self._texts.values()]
        rows = embed_prompts(words, own, dim, report=progress.note)
        return found | dict(zip(self._texts, rows, strict=True))

    def _ids(self, prompt: Prompt) -> dict[str, Tensor]:
        import torch

        source, [path] = locate(self.preset, "prompt", self.folder)
        verify(path, source.files[0])
        words, vocab = read_words(path), self.preset.transformer.vocab
        found = {}
        for name, text in self._texts.items():
            whole = text if name == AWAY else prompt.wording.replace(TEXT, text)
            found[name] = torch.from_numpy(prompt_ids(prompt, whole, vocab, words))
        return found

    @property
    def _texts(self) -> dict[str, str]:
        """What is to be embedded, by the names in `embedded`."""
        own = [] if self.embedding else [*self.texts.values(), *self.others]
        away = {} if self.negative is None else {AWAY: self.negative}
        return {text: text for text in own} | away

    def of(self, clip: Place, own: str | None = None) -> Tensor | None:
        """The embedding float32 [length, text_dim] of a clip's text, or of a video's own; None for
        a preset without text.
        """
        text = self.texts.get(clip, GIVEN) if own is None else own
        return self.embedded.get(GIVEN if self.embedding else text)

    @property
    def kept_from(self) -> Tensor | None:
        """The embedding of the negative prompt."""
        return self.embedded.get(AWAY)


def find_prompts(
    preset: Preset,
    clips: Sequence[Place],
    steering: Steering = Steering(),
    random: bool = False,
    others: Collection[str] = (),
    folder: Path | None = None,
) -> Prompts:
    """The prompts of the clips; with `random` weights they need none. `others`: prompts that a
    manifest gives single videos for their own. `folder`: as in `Prompts`.

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
    given += ["the manifest"] if others and (embedding or not preset.takes_text) else []
    if preset.prompt and embedding:
        message = f"The preset {preset.name} reads words, and no embedding of them"
        raise UsageError(message, "Give --prompt TEXT")
    if not preset.takes_text and given:
        hint = "Leave it out, or use a preset that text steers"
        raise UsageError(f"The preset {preset.name} takes no text, and {given[0]} gives one", hint)
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} both give the prompt", "Give one of them")
    negative = _negative_of(preset, steering)
    if not preset.takes_text or embedding:
        return Prompts(preset, embedding=embedding, negative=negative)
    shared, texts = prompt_of(prompt, prompt_file), {}
    for clip in clips:
        beside = None if preset.still else clip.with_suffix(".txt")  # an image is of no clip
        own = shared
        if shared is None and beside and is_file(beside):
            with local(beside, failure=UsageError) as path:
                own = prompt_of(None, path)
        if own is not None:
            texts[clip] = own
        elif not random:
            ways = ["Give --prompt TEXT", "--prompt-file FILE"]
            ways += [] if preset.prompt else ["--prompt-embedding FILE"]
            last = f", or write {beside}" if beside else f" or {ways.pop()}"
            hint = ", ".join(ways) + last
            raise UsageError(f"The preset {preset.name} needs a prompt for {clip}", hint)
    if negative is None and preset.prompt and preset.guidance and (texts or others):
        negative = preset.prompt.negative
    return Prompts(preset, texts, others, negative=negative, folder=folder)


def _negative_of(preset: Preset, steering: Steering) -> str | None:
    """The negative prompt. Raises UsageError where there is neither text nor guidance."""
    negative = prompt_of(steering.negative_prompt, None)
    if negative is not None and not (preset.takes_text and preset.guidance):
        what = "guidance" if preset.takes_text else "text"
        message = f"The preset {preset.name} has no {what}, and --negative-prompt needs it"
        raise UsageError(message, "Leave it out")
    return negative
