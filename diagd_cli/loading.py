"""A preset with its models on a device, and what can be asked of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from diagd_cli.clip.read import Clip
from diagd_cli.device import choose_device, choose_dtype, peak_memory, require_compiler
from diagd_cli.errors import UsageError
from diagd_cli.model.linear import pack
from diagd_cli.model.transformer import Transformer
from diagd_cli.preset import Preset, load_preset
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.tokens.actions import clip_actions
from diagd_cli.tokens.sampling import Sampling
from diagd_cli.weights.load import load_tokenizer, load_transformer, random_tokenizer, random_transformer
from diagd_cli.weights.memory import codec_dtype
from diagd_cli.weights.parameters import transformer_parameters


@dataclass(frozen=True, eq=False)
class Request:
    """What to make of a clip; `Loaded.request` makes one.

    frames: new ones.
    sampling: None is the preset's.
    actions: rows int64 [context + frames, A], the tokens after each frame; None where nothing steers.
    text: embedding float [N, cross_dim].
    """

    frames: int
    decoding: Decoding
    seed: int
    sampling: Sampling | None = None
    actions: np.ndarray | None = None
    text: Tensor | None = None


@dataclass(frozen=True)
class Loaded:
    """A preset with its models on a device; `dtype` is the Transformer's. seconds: of loading; compile_seconds: of `warm_up`.

    base: peak bytes of this process before it was loaded.
    """

    preset: Preset
    tokenizer: nn.Module | None
    transformer: Transformer
    device: torch.device
    dtype: torch.dtype
    seconds: float
    compile_seconds: float = 0.0
    base: int = 0

    def request(
        self,
        frames: int | None = None,
        seed: int = 0,
        *,
        clip: Clip | None = None,
        actions: np.ndarray | str | None = None,
        decoding: Decoding | None = None,
        text: Tensor | None = None,
        **sampling,
    ) -> Request:
        """What `diagd generate` asks for: the preset's frames, decoding and sampling where nothing else is given.

        clip: what is to be continued; the actions recorded beside it steer, as far as they go. actions: those of the new
        frames, as --actions takes them, for which the clip is needed; or rows int64 [context + frames, A], used as they
        are. sampling: temperature, top_k, top_p, top_p_rule. Raises UsageError; TypeError for another name.
        """
        preset = self.preset
        frames = preset.clip.frames if frames is None else frames
        if clip is None and isinstance(actions, str):
            raise UsageError("actions as text lead on from a clip", "Give the clip too: request(clip=clip, ...)")
        if clip is not None and (actions is None or isinstance(actions, str)):
            asked = preset.parse_actions(actions)
            actions = clip_actions(clip.path, preset.actions, asked, clip.first, len(clip.frames), frames)
        decoding = decoding or preset.decoding.decoding
        return Request(frames, decoding, seed, preset.sampling(**sampling), actions, text)


def load(
    preset: str | Preset,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float32,
    *,
    folder: Path | None = None,
    random: int | None = None,
    pixels: bool = True,
    compile: bool = False,
) -> Loaded:
    """Load a preset's models, by name, path or object; or with `random`, a seed, make up their weights.

    device, dtype: "auto" is what the command line chooses. folder: where weight files are looked for first. Without
    `pixels` the tokenizer is left out (None). compile: the Transformer's blocks go through torch.compile when they are
    first used (see `warm_up`), instead of the packed products. Raises PresetError, WeightsError; UsageError and DiagdError
    for a device that is not there.
    """
    started, base = time.perf_counter(), peak_memory(torch.device("cpu"))["host"]
    preset = preset if isinstance(preset, Preset) else load_preset(preset)
    device, tokenizer = choose_device(str(device)), None
    if isinstance(dtype, str):
        dtype = choose_dtype(dtype, device, transformer_parameters(preset.transformer, preset.positions))
    codec = torch.float32 if codec_dtype(device, dtype) == "float32" else dtype
    if random is None:
        if pixels:
            tokenizer = load_tokenizer(preset, device, codec, folder=folder)
        transformer = load_transformer(preset, device, dtype, folder=folder)
    else:
        if pixels:
            tokenizer = random_tokenizer(preset, random, device, codec)
        transformer = random_transformer(preset, random, device, dtype)
    if compile:
        require_compiler("--compile", "leave it out")
        for block in transformer.blocks:  # one by one: they are alike, so that one compilation serves all
            block.compile(dynamic=True)
    else:
        pack(transformer)
    return Loaded(preset, tokenizer, transformer, device, dtype, time.perf_counter() - started, base=base)
