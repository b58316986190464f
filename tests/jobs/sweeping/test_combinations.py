"""What a sweep runs: each plan once, NTP first, and why the rest is left out."""

from diagd_cli.jobs.sweeping.combinations import combine, earlier
from diagd_cli.schedule.decoding import Decoding, labels
from diagd_cli.tokens.grid import Grid

GRID = Grid(3, 4, 0, 0)  # spatial DiagD with k=2 takes 8 steps a frame
DEFAULT = ["previous-frame"], [True]


def named(*decodings):
    return [Decoding(*decoding) for decoding in decodings]


def names(decodings):
    return labels(decodings, GRID)


def test_every_plan_once_and_ntp_first():
    found = combine(
        named(("spatial", 2), ("diagd", 1, 3), ("diagd", 2, 3), ("diagd", 1, 3)), *DEFAULT, GRID, 1
    )
    assert (
        names(found.decodings) == ["NTP", "spatial DiagD k=2", "DiagD k=1 d=3", "DiagD k=2 d=3"]
        and not found.skipped
    )


def test_what_does_not_fit_or_is_there_already_is_told():
    decodings = named(
        ("spatial", 2),
        ("diagd", 2, 8),
        ("diagd", 2, 9),
        ("diagd", 5, 1),
        ("diagd", 4, 12),
        ("zipar", 2),
    )
    found = combine(decodings, ["above"], [True], GRID, 1)
    assert names(found.decodings) == ["NTP", "spatial DiagD k=2"]
    assert found.skipped == [
        ("diagd k=2 d=8", "The same plan as spatial k=2"),
        ("diagd k=2 d=9", "d is 9. With k=2 on a 3x4 grid it must lie in 1..8"),
        ("diagd k=5 d=1", "k is 5. On a 3x4 grid it must lie in 1..4"),
        ("diagd k=4 d=12", "The same plan as ntp"),
        ("zipar k=2", "The same plan as spatial k=2"),
    ]


def test_stand_ins_and_repair_only_where_they_matter():
    found = combine(
        named(("zipar", 2), ("diagd", 1, 3)), ["previous-frame", "newest"], [True, False], GRID, 1
    )
    assert names(found.decodings) == [
        "NTP",
        "ZipAR window=2",
        "ZipAR window=2, no repair",
        "DiagD k=1 d=3, previous-frame",
        "DiagD k=1 d=3, previous-frame, no repair",
        "DiagD k=1 d=3, newest",
        "DiagD k=1 d=3, newest, no repair",
    ]


def test_a_stand_in_that_needs_context():
    found = combine(named(("diagd", 1, 3)), *DEFAULT, GRID, 0)
    assert names(found.decodings) == ["NTP"] and found.skipped[0][1].startswith(
        "The stand-in previous-frame needs a context frame"
    )


def test_decodings_of_earlier_calls():
    """They come from a file: what is malformed, does not fit or is known is left out."""
    decodings = named(("ntp",), ("diagd", 1, 3))
    good = Decoding("diagd", 2, 3).facts(GRID, 1)
    known = [
        good,
        Decoding("ntp").facts(GRID, 1),
        decodings[1].facts(GRID, 1),
        {**good, "k": 9},
        {"k": "one"},
        "ntp",
        good,
    ]
    assert earlier(known, decodings, GRID, 1) == [(Decoding("diagd", 2, 3), good)]


def test_every_window():
    slides = Decoding("diagd", 1, 3, window="slide", sinks=1)
    found = combine([slides], *DEFAULT, GRID, 1, ("slide", "slide-2", "roll"))
    assert names(found.decodings) == [
        "NTP, slide",
        "NTP, slide-2",
        "NTP, roll",
        "DiagD k=1 d=3, slide, sinks 1",
        "DiagD k=1 d=3, slide-2, sinks 1",
        "DiagD k=1 d=3, roll",
    ]
    assert [decoding.sinks for decoding in found.decodings] == [0, 0, 0, 1, 1, 0]
    assert [decoding.attend for decoding in found.decodings] == [0, 2, 0] * 2
