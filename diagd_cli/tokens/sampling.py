"""How tokens are drawn from logits, as a record. Torch-free; `engine.sample` draws by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

TopPRule = Literal["nucleus", "strict"]
TOP_P_RULES: tuple[str, ...] = get_args(TopPRule)


@dataclass(frozen=True)
class Sampling:
    """Ids lie in 0 .. `codes`-1.

    temperature: 0 is greedy.
    top_k: how many of the likeliest are kept; 0 keeps all.
    top_p: mass of the nucleus; 1 keeps all.
    top_p_rule: `nucleus` keeps the token that crosses top_p, `strict` (WHAM's rule) drops it.
    first: smallest id that the first token of a frame may have (WHAM bars id 0 there).
    """

    codes: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    top_p_rule: TopPRule = "nucleus"
    first: int = 0

    @property
    def facts(self) -> dict[str, float | int | str]:
        """What a person chose of it, as reports and sidecars tell it."""
        return {
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "top_p_rule": self.top_p_rule,
        }


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance (Ho & Salimans 2022): each clip is in the batch twice, with the same
    codes, after its own prefix and after one that asks for nothing. Drawn is by the logits
    nothing + scale * (own - nothing).

    prefix: ids that ask for nothing, as many as the clip's own.
    padding: how many of them, the first ones, are none; None: as many as of the clip's own.
    tokens: only the first so many of each latent frame are guided, later ones are drawn by the
        clip's own logits; 0: all are. LlamaGen's cfg_interval, where it is not negative, is 2 less.
    """

    scale: float
    prefix: tuple[int, ...] = ()
    tokens: int = 0
    padding: int | None = None
