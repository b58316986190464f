"""What the jobs are asked for, as plain records over a preset's defaults. Torch-free: models are
loaded by `jobs.models`.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from diagd_cli.clip.image import IMAGE_FORMATS
from diagd_cli.errors import UsageError
from diagd_cli.files.url import Place, Url
from diagd_cli.preset import Preset
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.tokens.sampling import Sampling
from diagd_cli.weights.locate import mirror
from diagd_cli.weights.mirror import fetch_missing

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from diagd_cli.loading import Request

AUTO = "auto"
MOST_FRAMES = 100_000  # that are held


@dataclass(frozen=True)
class Settings:
    """Everything that decides the tokens of a clip, its pixels, actions and text aside; `choose`
    makes one.

    frames: new ones.
    context: frames before them; of a still image there is one, see `for_clip`.
    guidance: scale of the guidance; None is the preset's.
    """

    decoding: Decoding
    sampling: Sampling
    frames: int
    context: int
    seed: int
    guidance: float | None = None

    def for_clip(self, path: Place, preset: Preset) -> Settings:
        """The same for one clip. Raises UsageError where it is a still image and the preset takes
        none.
        """
        context = 1 if path.suffix.lower() in IMAGE_FORMATS else self.context
        preset.check_frames(context, self.frames, self.decoding.window == "slide")
        return replace(self, context=context)

    def request(
        self,
        decoding: Decoding | None = None,
        actions: np.ndarray | None = None,
        text: Tensor | None = None,
        seed: int | None = None,
        label: int | None = None,
        negative: Tensor | None = None,
    ) -> Request:
        """What the pipeline is asked for; decoding and seed are the settings' where no others are
        given.

        actions: rows int64 [context + frames, A].
        text, negative: embeddings float [N, text_dim].
        label: what is to be seen, see `Request`.
        """
        from diagd_cli.loading import Request  # and torch, which takes long

        own = self.seed if seed is None else seed
        order = decoding or self.decoding
        steered = actions, text, label, self.guidance, negative
        return Request(self.frames, order, own, self.sampling, *steered)


def choose(
    preset: Preset,
    *,
    frames: int | None = None,
    context: int | None = None,
    decoding: Decoding | None = None,
    seed: int | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    top_p_rule: str | None = None,
    guidance: float | None = None,
    endless: bool = False,
) -> Settings:
    """Settings by the preset's defaults where nothing else is given, checked against its grid and
    window.

    seed: drawn at random where it is None.
    endless: whether there may be more frames than memory holds.

    Raises UsageError.
    """
    frames, context = frames or preset.clip.frames, context or preset.clip.context
    decoding = decoding or preset.decoding.decoding
    if frames > MOST_FRAMES and not endless:
        hint = f"Ask for at most {MOST_FRAMES}, or let diagd generate --stream go on for as long"
        raise UsageError(f"frames is {frames}", hint)
    preset.check_window(decoding)
    preset.check_frames(context, frames, decoding.window == "slide")
    decoding.resolve(preset.grid, preset.latents(context))
    sampling = preset.sampling(
        temperature=temperature, top_k=top_k, top_p=top_p, top_p_rule=top_p_rule
    )
    preset.guided(guidance)
    seed = secrets.randbelow(2**32) if seed is None else seed
    return Settings(decoding, sampling, frames, context, seed, guidance)


@dataclass(frozen=True)
class Steering:
    """What steers a video; where nothing is given, what lies beside the clip.

    actions: as --actions takes them, a file or a list such as `forward*8,left*4`.
    prompt, prompt_file, prompt_embedding: one of them at most.
    negative_prompt: what is to be kept away from, where guidance is.
    """

    actions: str | None = None
    prompt: str | None = None
    prompt_file: Path | None = None
    prompt_embedding: Path | None = None
    negative_prompt: str | None = None


@dataclass(frozen=True)
class Machine:
    """Where a model runs, in what precision, and where its files are.

    device, dtype, kv_dtype, weights: as --device, --dtype, --kv-dtype and --weights take them.
    weights_dir: where weight files are looked for first, a folder or the URL of one, from which
        what is missing is fetched once.
    random_weights: made-up weights of the true size, a function of the seed.
    offload: whether a tokenizer on CUDA waits in main memory while tokens are made.
    compile: whether the Transformer's blocks go through torch.compile.
    tp: processes that hold the Transformer together, see `jobs.tensor_parallel`.
    """

    device: str = AUTO
    dtype: str = AUTO
    kv_dtype: str = AUTO
    weights_dir: Place | None = None
    random_weights: bool = False
    offload: bool = False
    compile: bool = False
    weights: str = AUTO
    tp: int = 1

    @property
    def weights_folder(self) -> Path | None:
        """The folder of this machine in which weight files are looked for first."""
        if isinstance(self.weights_dir, Url):
            return mirror(self.weights_dir)
        return self.weights_dir

    def fetch_weights(self, *presets: Preset) -> None:
        """Have there what presets need of a URL. Raises WeightsError."""
        if isinstance(self.weights_dir, Url) and not self.random_weights:
            for preset in presets:
                fetch_missing(preset, self.weights_dir)

    def weights_of(self, preset: Preset) -> dict[str, str | None]:
        """What tells the weights in use from others, by part."""
        return {
            part: "random" if self.random_weights else key
            for part, key in preset.weight_keys.items()
        }


def seeds_from(seed: int, count: int) -> list[int]:
    """SEED, SEED+1, ..., which begin again after 2^64-1."""
    return [(seed + n) % 2**64 for n in range(count)]
