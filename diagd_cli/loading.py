"""A preset with its models on a device, and what can be asked of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from diagd_cli.clip.read import Clip
from diagd_cli.device import (
    choose_device,
    choose_dtype,
    choose_weights,
    peak_memory,
    require_compiler,
)
from diagd_cli.errors import UsageError
from diagd_cli.model.contract import Model
from diagd_cli.model.linear import pack
from diagd_cli.model.transformer import Transformer
from diagd_cli.preset import Preset
from diagd_cli.preset_files import load_preset
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.tokens.actions import clip_actions
from diagd_cli.tokens.protocols import Tokenizer
from diagd_cli.tokens.sampling import Sampling
from diagd_cli.weights.load import (
    load_tokenizer,
    load_transformer,
    random_tokenizer,
    random_transformer,
)
from diagd_cli.weights.memory import codec_dtype
from diagd_cli.weights.parameters import transformer_parameters

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


@dataclass(frozen=True, eq=False)
class Request:
    """What to make of a clip; `Loaded.request` makes one.

    frames: new ones.
    sampling: None is the preset's.
    actions: rows int64 [context + frames, A], the tokens after each frame; None where nothing
        steers.
    text: embedding float [N, text_dim].
    negative: of the text that guidance leads away from, for all clips of a batch; None is the
        preset's, which asks for nothing.
    label: what is to be seen, by its number, for a preset with `labels`; None for anything.
    guidance: scale of the guidance, 1 for none; None is the preset's.
    """

    frames: int
    decoding: Decoding
    seed: int
    sampling: Sampling | None = None
    actions: np.ndarray | None = None
    text: Tensor | None = None
    label: int | None = None
    guidance: float | None = None
    negative: Tensor | None = None


@dataclass(frozen=True)
class Loaded:
    """A preset with its models on a device.

    tokenizer: None where it was left out.
    dtype: the Transformer's.
    weights: "int8" or "fp8" where its blocks' matrices are of 8 bits, else "".
    seconds: that loading took.
    compile_seconds: that `warm_up` took.
    base: peak bytes of this process before anything was loaded.
    mesh: the processes that hold the Transformer together; None where it is whole.
    """

    preset: Preset
    tokenizer: Tokenizer | None
    transformer: Model
    device: torch.device
    dtype: torch.dtype
    seconds: float
    compile_seconds: float = 0.0
    base: int = 0
    weights: str = ""
    mesh: DeviceMesh | None = None

    @property
    def numbers(self) -> str:
        """Its dtype and, where they are of 8 bits, its weights, in words: `bfloat16+int8`."""
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{dtype}+{self.weights}" if self.weights else dtype

    def request(
        self,
        frames: int | None = None,
        seed: int = 0,
        *,
        clip: Clip | None = None,
        actions: np.ndarray | str | None = None,
        decoding: Decoding | None = None,
        text: Tensor | None = None,
        label: int | None = None,
        guidance: float | None = None,
        negative: Tensor | None = None,
        **sampling: Any,
    ) -> Request:
        """What `diagd generate` asks for: the preset's frames, decoding and sampling where nothing
        else is given.

        clip: what is to be continued; the actions recorded beside it steer, as far as they go.
        actions: those of the new frames, as --actions takes them, for which the clip is needed; or
            rows int64 [context + frames, A], used as they are.
        text, label, guidance, negative: as in `Request`.
        sampling: temperature, top_k, top_p, top_p_rule.

        Raises UsageError; TypeError for another name.
        """
        preset = self.preset
        frames = preset.clip.frames if frames is None else frames
        decoding = decoding or preset.decoding.decoding
        if isinstance(actions, np.ndarray) or (clip is None and actions is None):
            rows = actions
        elif clip is None:
            raise UsageError(
                "actions as text lead on from a clip", "Give the clip too: request(clip=clip, ...)"
            )
        else:
            asked = preset.parse_actions(actions)
            rows = clip_actions(
                clip.path, preset.actions, asked, clip.first, len(clip.frames), frames
            )
        how = preset.sampling(**sampling)
        return Request(frames, decoding, seed, how, rows, text, label, guidance, negative)


def load(
    preset: str | Preset,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str = torch.float32,
    *,
    folder: Path | None = None,
    random: int | None = None,
    pixels: bool = True,
    compile: bool = False,
    tokenizer: Tokenizer | None = None,
    transformer: Model | None = None,
    weights: str = "float",
    mesh: DeviceMesh | None = None,
) -> Loaded:
    """Load a preset's models, or make up their weights, or take models that are given.

    preset: its name, the path of its YAML file, or itself.
    device: "auto" is what the command line chooses, as for `dtype`, which is the Transformer's.
    folder: where weight files are looked for first.
    random: a seed by which weights are made up.
    pixels: without, the tokenizer is left out (None).
    compile: the Transformer's blocks go through torch.compile when they are first used (see
        `warm_up`), instead of the packed products.
    weights: as --weights takes it: "int8" and "fp8" hold the Transformer's matrices in 8 bits.
    tokenizer, transformer: used as they are, on their own device and in their own dtype, instead of
        the preset's.
    mesh: torch's, of processes that hold the Transformer together: each gets its share, and
        whatever one asks of it all must ask. See `jobs.generate_together`.

    Raises PresetError, WeightsError; UsageError and DiagdError for a device that is not there.
    """
    started, base = time.perf_counter(), peak_memory(torch.device("cpu"))["host"]
    preset = preset if isinstance(preset, Preset) else load_preset(preset)
    device = choose_device(str(device))
    if isinstance(dtype, str):
        dtype = choose_dtype(
            dtype, device, transformer_parameters(preset.transformer, preset.positions)
        )
    if tokenizer is None and pixels:
        tokenizer = _tokenizer(preset, device, dtype, folder, random)
    held = choose_weights(weights, device, preset.weights)
    if transformer is None:
        made = device, dtype, held, folder, random, compile, mesh
        transformer = _transformer(preset, *made)
    seconds = time.perf_counter() - started
    known = preset, tokenizer, transformer, device, dtype, seconds
    return Loaded(*known, base=base, weights=held, mesh=mesh)


def _tokenizer(
    preset: Preset,
    device: torch.device,
    dtype: torch.dtype,
    folder: Path | None,
    random: int | None,
) -> Tokenizer:
    codec = torch.float32 if codec_dtype(device, dtype) == "float32" else dtype
    if random is None:
        return cast(Tokenizer, load_tokenizer(preset, device, codec, folder=folder))
    return cast(Tokenizer, random_tokenizer(preset, random, device, codec))


def _transformer(
    preset: Preset,
    device: torch.device,
    dtype: torch.dtype,
    weights: str,
    folder: Path | None,
    random: int | None,
    compile: bool,
    mesh: DeviceMesh | None,
) -> Transformer:
    if compile:
        require_compiler("--compile", "leave it out")
    if compile and weights:
        raise UsageError(f"--compile has no products of {weights} weights", "Leave one of them out")
    if random is None:
        transformer = load_transformer(preset, device, dtype, weights, folder=folder, mesh=mesh)
    else:
        transformer = random_transformer(preset, random, device, dtype, weights, mesh)
    if not compile:
        pack(transformer)
        return transformer
    # one by one: they are alike, so that one compilation serves all
    for block in transformer.blocks:
        block.compile(dynamic=True)
    transformer.compiled = True
    return transformer
