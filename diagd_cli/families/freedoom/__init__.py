"""The shipped world: a convolutional FSQ tokenizer, and actions by name. What is trained here is of
this family.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from diagd_cli.families.family import Family, TokenizerKind
from diagd_cli.families.freedoom.actions import NamedActions
from diagd_cli.families.freedoom.config import FsqImageConfig
from diagd_cli.families.freedoom.memory import parameters, work

if TYPE_CHECKING:
    from diagd_cli.families.freedoom.tokenizer import FsqImageTokenizer


def _build(config: FsqImageConfig) -> FsqImageTokenizer:
    from diagd_cli.families.freedoom.tokenizer import FsqImageTokenizer

    return FsqImageTokenizer(config)


FAMILY = Family(
    "freedoom",
    tokenizer=TokenizerKind(FsqImageConfig, _build, parameters, work, channels_last=True),
    actions=NamedActions,
)
