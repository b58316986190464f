"""What is particular to a model family, as one record. docs/families.md shows how to add one.

Records are made without torch: what needs it is imported by the functions that they hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import nn

    from diagd_cli.checkpoints.match import Rows

OWN_FORMAT = "diagd"  # of weights by the names of our modules, which every family can have


def kind_of(record: type[Any]) -> str:
    """How presets call a record of a tokenizer or of actions."""
    kind: str = record.model_fields["kind"].default
    return kind


@dataclass(frozen=True)
class TokenizerKind:
    """A tokenizer: the record of its section in a preset (`tokens.protocols.TokenizerConfig`), and
    what is done with one.

    build(config) -> module (`tokens.protocols.Tokenizer`), called where parameters are left unset.
    parameters(config) -> their number, by arithmetic. work(config, frames, context, area, item) ->
    bytes that encoding `context` or decoding `frames` frames of `area` pixels takes besides, with
    numbers of `item` bytes. settings(config) -> what its weights were trained with, by name.

    channels_last: whether its convolutions are faster so, and need not keep the order of official
        sums.
    pixels: whether frames are pixels; where not, clips are files of tokens.
    """

    config: type[Any]
    build: Callable[[Any], nn.Module]
    parameters: Callable[[Any], int]
    work: Callable[[Any, int, int, int, int], float]
    settings: Callable[[Any], dict[str, Any]] = lambda config: config.model_dump(mode="json")
    channels_last: bool = False
    pixels: bool = True

    @property
    def kind(self) -> str:
        """How presets call it."""
        return kind_of(self.config)


@dataclass(frozen=True)
class Checkpoint:
    """Official weight files: their tensors by the names of our modules, checked before any is read.

    transformer(paths, config, positions) and tokenizer(paths, config) give (name, the tensors whose
    rows make the parameter), see `checkpoints.match.rows`; they raise WeightsError for what is
    another model's, or damaged. Without `tokenizer` the files hold none.

    in_parts: the models whose weights may be several files.
    offsets: whether `transformer` takes offset=, too: the files' id of the first code.
    """

    transformer: Callable[..., Rows]
    tokenizer: Callable[[list[Path], Any], Rows] | None = None
    in_parts: tuple[str, ...] = ()
    offsets: bool = False


@dataclass(frozen=True)
class Family:
    """One model family.

    name: also the `format` of its official weight files in a preset, where it has such.

    actions: the record of what steers it (`tokens.protocols.Actions`).
    recordings: readers of clips that are no videos, frames uint8 [F, H, W, 3] of a path, by suffix;
        they raise UsageError.
    """

    name: str
    tokenizer: TokenizerKind | None = None
    actions: type[Any] | None = None
    checkpoint: Checkpoint | None = None
    recordings: Mapping[str, Callable[[Path], np.ndarray]] = field(default_factory=dict)

    @property
    def format(self) -> str:
        """The format of its weight files where no preset says it."""
        return self.name if self.checkpoint else OWN_FORMAT
