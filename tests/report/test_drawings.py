"""Drawings of the report: the curve, and which step makes which token."""

import xml.etree.ElementTree as ElementTree

import pytest
from report.small import made_row

from diagd_cli.report.comparison import Fidelity
from diagd_cli.report.drawings import NUMBERED, curve, step_map
from diagd_cli.report.timeline import timeline
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.schedule.plan import build_plan
from diagd_cli.tokens.grid import Grid

SPACE = "{http://www.w3.org/2000/svg}"


def drawn(
    decoding: Decoding, h: int, w: int, frames: int = 3
) -> tuple[ElementTree.Element, list[str]]:
    """The step map of a decoding after one context frame, and its texts."""
    k, d, *_ = decoding.resolve(Grid(h, w), 1)
    svg = ElementTree.fromstring(
        step_map(timeline([build_plan(Grid(h, w), 1, frames, decoding)]), k, d)
    )
    return svg, [text.text for text in svg.iter("text")]


@pytest.mark.parametrize(
    "decoding", [Decoding("ntp"), Decoding("diagd", 2, 3), Decoding("spatial", 1)]
)
def test_every_token_of_two_frames_has_its_step(decoding):
    k, d, *_ = decoding.resolve(Grid(3, 4), 1)
    svg, texts = drawn(decoding, 3, 4)
    steps = [str(t * d + i * k + j) for t in range(2) for i in range(3) for j in range(4)]
    assert [text for text in texts if text.isdigit()] == steps
    assert f"k={k}" in texts and f"d={d}" in texts and len(list(svg.iter("rect"))) == 24


def test_the_busiest_step_is_framed():
    svg, texts = drawn(Decoding("diagd", 1, 2), 3, 4)
    framed = [rect for rect in svg.iter("rect") if rect.get("stroke")]
    assert texts[-1] == f"framed: the {len(framed)} tokens made in step 3" and len(framed) == 5
    svg, texts = drawn(Decoding("ntp"), 3, 4)
    assert texts[-1] == "one token a step" and not any(
        rect.get("stroke") for rect in svg.iter("rect")
    )


def test_one_frame_and_one_row():
    _, texts = drawn(Decoding("ntp"), 1, 4, frames=1)
    assert not any(text.startswith(("k=", "d=")) for text in texts)


def test_columns_that_are_too_many_for_numbers_have_hints():
    svg, texts = drawn(Decoding("diagd", 2, 5), 3, NUMBERED + 1, frames=1)
    assert not any(text.isdigit() for text in texts)
    hints = [title.text for title in svg.iter("title")]
    assert hints[:3] == ["step 0", "step 1", "step 2"] and len(hints) == 3 * (NUMBERED + 1)


def test_curve_names_every_decoding_and_takes_the_colour_of_the_page():
    fidelity = Fidelity(24.5, 0.5, [26.0, 24.5, 23.0])
    rows = [made_row(label, 1.0, fidelity=fidelity) for label in ("NTP", "DiagD k=2 d=10")]
    svg = ElementTree.fromstring(curve(rows, Fidelity(30.0, 0.9, [30.0, 30.0, 30.0])))
    texts = {text.text for text in svg.iter(f"{SPACE}text")}
    assert {
        "NTP",
        "DiagD k=2 d=10",
        "tokenizer alone",
        "new frame",
        "1",
        "2",
        "3",
    } <= texts and "1.5" not in texts
    assert "currentColor" in curve(rows, None) and "#010203" not in curve(rows, None)
    assert curve(rows, None) == curve(rows, None)
