"""Bounds as they are written, and the fastest decoding within them."""

import pytest
from jobs.sweeping.small import ntp, row

from diagd_cli.errors import UsageError
from diagd_cli.jobs.sweeping.bounds import choose, explain, parse_bounds


def read(text):
    return [(bound.measure.bound, bound.limit, bound.relative) for bound in parse_bounds(text)]


def test_reading():
    assert read("nll<=+2%") == [("nll", 0.02, True)]
    assert read("nll <= +.05, psnr>=-0.5,ssim>=-1.5%") == [
        ("nll", 0.05, False),
        ("psnr", -0.5, False),
        ("ssim", -0.015, True),
    ]
    assert read("actions>=+0") == [("actions", 0.0, False)]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "Cannot read the bound ''"),
        (
            "nll<2",
            "Cannot read the bound 'nll<2'. Write a measure and a difference to NTP with its sign",
        ),
        ("nll<=+2%,", "Cannot read the bound ''"),
        ("nll<=+nan", "Cannot read the bound"),
        ("fvd<=+1", "'fvd' is not one of nll, psnr, ssim, actions"),
        ("psnr<=-0.5", "'psnr<=-0.5' asks for the worse: psnr is good where it is high. Write >="),
        ("nll<=2%", "'nll<=2%' has no sign, and bounds are differences to NTP"),
    ],
)
def test_bad_bounds(text, message):
    with pytest.raises(UsageError) as caught:
        parse_bounds(text)
    assert message in str(caught.value)


def chosen(rows, text, clips=4):
    bounds = parse_bounds(text)
    choice = choose(rows, bounds)
    return choice, explain(choice, bounds, clips)


SLOW, MIDDLE, FAST = row(4, 20, 4, 0.01, 0.004), row(2, 10, 9, 0.03, 0.02), row(1, 1, 20, 0.3, 0.05)


def test_the_fastest_within():
    choice, lines = chosen([ntp(), SLOW, MIDDLE, FAST], "nll<=+3%")
    assert choice.row is MIDDLE and choice.settled and choice.sure is MIDDLE
    assert lines == [
        "DiagD k=2 d=10 is the fastest within nll<=+3%: 9.0x NTP, 810 tokens/s, 267 steps",
        "  NLL 2.030, +1.5% (95%: +0.5% to +2.5%)",
    ]


def test_all_others_may_be_slower_though_they_are_within():
    """On a busy machine, or with a tiny model: then nothing is the nearest that is not."""
    choice, lines = chosen([ntp(), row(4, 20, 0.9, 0.01, 0.004)], "nll<=+3%")
    assert choice.row.label == "NTP" and choice.nearest is None
    assert lines == ["NTP is the fastest within nll<=+3%"]


def test_all_bounds_hold():
    rows = [ntp(), SLOW, row(2, 10, 9, 0.03, psnr=-0.8)]
    assert chosen(rows, "nll<=+3%")[0].row is rows[2]
    choice, lines = chosen(rows, "nll<=+3%,psnr>=-0.5")
    assert choice.row is SLOW
    assert lines[1:] == [
        "  NLL 2.010, +0.5% (95%: +0.3% to +0.7%)",
        "  PSNR 19.70 dB, -0.30 (95%: -0.30 to -0.30)",
    ]


def test_an_interval_that_reaches_past_the_bound():
    choice, lines = chosen([ntp(), SLOW, MIDDLE, FAST], "nll<=+2%")
    assert choice.row is MIDDLE and not choice.settled and choice.sure is SLOW
    doubt = (
        "over 4 clips the interval of NLL reaches past the bound. Settled within: DiagD k=4 d=20, "
        "4.0x"
    )
    assert lines[-1] == f"  Not settled: {doubt}"


def test_one_clip_settles_nothing():
    choice, lines = chosen([ntp(), row(2, 10, 9, 0.01, None)], "nll<=+2%", clips=1)
    assert not choice.settled and lines[1:] == [
        "  NLL 2.010, +0.5%",
        "  Not settled: one clip has no interval. Give more clips",
    ]


def test_only_ntp_remains():
    choice, lines = chosen([ntp(), FAST, MIDDLE], "nll<=+0.005")
    assert choice.row.label == "NTP" and choice.settled
    assert lines[0] == "Only NTP is within nll<=+0.005"
    assert lines[1].startswith(
        "  The nearest, DiagD k=2 d=10 (9.0x NTP, 810 tokens/s, 267 steps): NLL 2.030, +0.030"
    )
    assert "do not settle" not in lines[1]  # the interval begins at +0.010
    assert "do not settle" in chosen([ntp(), MIDDLE], "nll<=+0.02")[1][1]


def test_not_even_ntp():
    choice, lines = chosen([ntp(), SLOW], "psnr>=+1")
    assert choice.row is None and lines[0] == "Nothing is within psnr>=+1: not even NTP"


def test_ntp_alone_was_run():
    assert chosen([ntp()], "nll<=+2%")[1] == ["Only NTP is within nll<=+2%"]


def test_a_measure_without_figures():
    with pytest.raises(UsageError, match=r"no actions for 'actions>=-0\.1'"):
        chosen([ntp(), SLOW], "actions>=-0.1")
