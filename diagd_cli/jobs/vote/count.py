"""Counting votes: wins, ties and losses of the first folder over the second, with intervals and a
sign test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import comb, sqrt
from pathlib import Path
from statistics import NormalDist

from diagd_cli.files.outputs import check_outputs
from diagd_cli.jobs.vote.records import Choice, Key, VoteError, Votes, read_record
from diagd_cli.report.vote import PairTally, Share, Tally, VoteCounts


def check_votes(key: Key, files: Sequence[tuple[Path, Votes]]) -> None:
    """Check that every file answers the key's vote, and that none is there twice. Raises
    VoteError.
    """
    seen: dict[str, Path] = {}
    for path, votes in files:
        if votes.vote != key.vote:
            raise VoteError(
                f"{path} is of another vote", "Give the key of the page that it comes from"
            )
        strange = next((pair for pair in votes.choices if pair not in key.pairs), None)
        if strange is not None:
            raise VoteError(
                f"{path} has a choice for pair {strange!r}, which is not in the key",
                "Leave that file out",
            )
        if votes.ballot in seen:
            raise VoteError(
                f"{path} and {seen[votes.ballot]} are of the same voter", "Leave one of them out"
            )
        seen[votes.ballot] = path


def count_files(votes: Sequence[Path], key: Path) -> VoteCounts:
    """The counts of files that voters' pages saved; key: the FOLDER.key.json of the page.

    Raises VoteError, UsageError.
    """
    check_outputs([], [(key, "the key"), *((path, "a file of votes") for path in votes)])
    known = read_record(key, Key)
    files = [(path, read_record(path, Votes)) for path in votes]
    check_votes(known, files)
    return count_votes(known, [ballot for _, ballot in files])


def count_votes(key: Key, votes: Sequence[Votes]) -> VoteCounts:
    """The counts of votes that answer the key's question."""
    outcomes = {
        pair: Counter(
            outcome(entry.left, ballot.choices[pair]) for ballot in votes if pair in ballot.choices
        )
        for pair, entry in key.pairs.items()
    }
    overall = sum(outcomes.values(), Counter())
    return VoteCounts(
        a=key.a,
        b=key.b,
        question=key.question,
        voters=len(votes),
        overall=tally(overall),
        p=sign_test(overall["win"], overall["lose"]),
        pairs=[
            PairTally(pair, key.pairs[pair].name, tally(counts))
            for pair, counts in outcomes.items()
        ],
    )


def outcome(left: str, choice: Choice) -> str:
    """What a choice means for folder a, whose video is on the left where `left` is "a"."""
    if choice == "equal":
        return "tie"
    return "win" if (choice == "left") == (left == "a") else "lose"


def tally(counts: Counter[str]) -> Tally:
    """The number of votes, and of each outcome its count, share of all votes, and 95% interval of
    that share.
    """
    total = counts.total()

    def share(name: str) -> Share:
        return Share(
            counts[name], counts[name] / total if total else None, wilson(counts[name], total)
        )

    return Tally(total, share("win"), share("tie"), share("lose"))


def wilson(count: int, total: int, confidence: float = 0.95) -> tuple[float, float] | None:
    """Wilson's score interval of the share `count / total`; None where there are no votes."""
    if not total:
        return None
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, shrink = count / total, 1 + z * z / total
    middle = (share + z * z / (2 * total)) / shrink
    half = z / shrink * sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    # which rounding misses by an ulp
    return (0.0 if count == 0 else low), (1.0 if count == total else high)


def sign_test(wins: int, losses: int) -> float:
    """Two-sided p-value of the hypothesis that wins and losses are equally likely; ties do not
    count.
    """
    trials = wins + losses
    tail = sum(comb(trials, n) for n in range(min(wins, losses) + 1))
    # whole numbers up to the division, which rounds correctly
    return min(1.0, 2 * tail / 2**trials)
