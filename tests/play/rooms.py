"""Rooms of the tiny preset."""

from dataclasses import replace

import pytest

from diagd_cli import Decoding, load
from diagd_cli.clip.read import read_clip
from diagd_cli.play.room import Room
from diagd_cli.preset_files import load_preset

DIAGONAL = Decoding("diagd", k=1, d=2, window="slide")
NTP = replace(DIAGONAL, method="ntp")


@pytest.fixture(scope="module")
def loaded(tiny):
    return load(load_preset(tiny.preset))


@pytest.fixture
def beginnings(tiny):
    return {name: read_clip(tiny.clip, 2, start) for name, start in (("walk", 0), ("later", 3))}


@pytest.fixture
def room(loaded, beginnings):
    return Room(loaded, beginnings, DIAGONAL, [NTP, DIAGONAL], seed=7, pace=60.0)


@pytest.fixture
def shared(loaded, beginnings):
    """A room where two can play."""
    return Room(loaded, beginnings, DIAGONAL, [NTP, DIAGONAL], seed=7, pace=60.0, sessions=2)
