"""What a training is asked for: plain records. They need no torch, so that --help stays instant."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from diagd_cli.preset import Preset
    from diagd_cli.schedule.decoding import Decoding

Precision = Literal["auto", "bf16", "fp32"]
SCENARIOS = ("my_way_home", "health_gathering_supreme")  # those of `record`


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What every training is asked for.

    data: folder of clips: train/ and val/, or all in one. Actions lie beside them.
    out: folder of the run. One that was stopped there goes on, and the new preset is written there.
    every: steps between validations, each of which also saves a checkpoint.
    cache: folder for decoded frames and tokens; None is data/cache.
    weights_dir: folder in which the weights of presets are looked for first.
    device: auto, cpu, cuda or cuda:N.
    precision: of the products in training; auto is bf16 where the hardware multiplies it.
    verbose: whether to note also what is missing, but is not needed, such as TensorBoard.
    """

    data: Path
    out: Path
    every: int = 200
    cache: Path | None = None
    weights_dir: Path | None = None
    device: str = "auto"
    precision: Precision = "auto"
    verbose: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainRequest(RunOptions):
    """Train a tokenizer or a Transformer by a recipe.

    recipe: name of a shipped recipe, or path of a YAML file.
    preset: name of a preset, or path of a YAML file; None is the recipe's.
    init: the preset whose weights a new run begins with, None for none.
    steps: optimiser steps, None for the recipe's number.
    accumulate: parts in which a batch is worked through, None for the recipe's number.
    samples: whether each validation writes what the model makes, to look at.
    """

    recipe: str = "freedoom"
    preset: str | None = None
    init: str | None = None
    steps: int | None = None
    accumulate: int | None = None
    samples: bool = True


@dataclass(frozen=True, kw_only=True)
class InverseRequest(RunOptions):
    """Train inverse dynamics on clips with actions.

    recipe: whose preset it is, the name of a shipped one or the path of a YAML file.
    preset: name of a preset, or path of a YAML file; None is the recipe's.
    steps: optimiser steps, None for the usual number.
    """

    recipe: str = "freedoom"
    preset: str | None = None
    steps: int | None = None


@dataclass(frozen=True, kw_only=True)
class FinetuneRequest(RunOptions):
    """Fine-tune a preset's Transformer under the masks of decodings.

    preset: whose weights are the beginning.
    decodings: each step draws one of them.
    window: pixel frames of a training sample, None for the preset's window.
    steps: optimiser steps.
    batch: windows of a step.
    balance: 0 to 1, how much more often windows of rare actions are drawn.
    accumulate: parts in which a batch is worked through.
    lr: peak learning rate.
    seed: of what is drawn: windows, decodings and prompts.
    scheduled_sampling: the largest share of a sample's new codes that the model sees as it would
        have made them itself.
    prompt_embedding: safetensors with the T5 embedding of a text that describes all clips.
    """

    preset: Preset
    decodings: tuple[Decoding, ...]
    window: int | None = None
    steps: int = 1000
    batch: int = 1
    balance: float = 0.0
    accumulate: int = 1
    lr: float = 1e-4
    seed: int = 0
    scheduled_sampling: float = 0.0
    prompt_embedding: Path | None = None


@dataclass(frozen=True, kw_only=True)
class RecordRequest:
    """Record clips, and an action for each frame, from ViZDoom's Freedoom levels.

    out: folder that gets train/ and val/.
    scenarios: names of levels; the episodes go round them.
    episodes: clips in all. Episode e has the seed `seed + e // len(scenarios)`, which alone
        decides its content and its split.
    frames: pixel frames of a clip.
    height, width: pixels; whole fractions of 480 and 640.
    """

    out: Path
    scenarios: tuple[str, ...] = SCENARIOS
    episodes: int = 420
    frames: int = 160
    seed: int = 0
    height: int = 120
    width: int = 160
