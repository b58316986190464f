"""What people preferred, as records: made by `jobs.vote`, shown by a table, and written as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Share:
    """How often an outcome was.

    count: votes.
    share: of all votes; None where there are none.
    interval: 95% interval of the share; None where there are no votes.
    """

    count: int
    share: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Tally:
    """Outcomes of votes; a win is a choice of folder a's video over b's."""

    votes: int
    win: Share
    tie: Share
    lose: Share


@dataclass(frozen=True)
class PairTally:
    """The outcomes of one pair; name: the videos' file name."""

    pair: str
    name: str
    tally: Tally


@dataclass(frozen=True)
class VoteCounts:
    """The counts of a vote.

    a, b: the two folders.
    question: what voters were asked.
    voters: files of votes.
    overall: over all pairs.
    p: two-sided sign test of wins against losses overall.
    """

    a: str
    b: str
    question: str
    voters: int
    overall: Tally
    p: float
    pairs: Sequence[PairTally]

    def facts(self) -> dict:
        """The counts as JSON has them."""
        return {
            "a": self.a,
            "b": self.b,
            "question": self.question,
            "voters": self.voters,
            "overall": {**asdict(self.overall), "p": self.p},
            "pairs": [
                {"pair": one.pair, "name": one.name, **asdict(one.tally)} for one in self.pairs
            ],
        }
