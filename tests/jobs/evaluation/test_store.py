"""Results on disk: found again, whatever a killed run has left."""

import numpy as np
import pytest
from limits import small_disk

from diagd_cli.errors import OutputError
from diagd_cli.jobs.evaluation.store import LINES, Record, Store


@pytest.fixture
def filled(tmp_path):
    store = Store(tmp_path, {"frames": 2})
    for seed in (0, 1):
        store.add(
            Record(
                {"clip": "a", "seed": seed},
                {"psnr": [20.5 + seed]},
                {"codes": np.full((2, 3), seed)},
            )
        )
    return tmp_path


def found(folder, seed, settings=None):
    return Store(folder, settings or {"frames": 2}).find({"clip": "a", "seed": seed})


def test_found_again(filled):
    record = found(filled, 1)
    assert record.figures == {"psnr": [21.5]} and (record.arrays["codes"] == 1).all()
    assert found(filled, 2) is None and found(filled, 1, {"frames": 3}) is None


def test_a_line_that_was_cut_off(filled):
    lines = filled / LINES
    lines.write_text(lines.read_text()[:-20])
    assert found(filled, 0) and found(filled, 1) is None
    Store(filled, {"frames": 2}).add(Record({"clip": "a", "seed": 1}, {"psnr": [1.0]}, {}))
    assert found(filled, 0) and found(filled, 1).figures == {"psnr": [1.0]}


@pytest.mark.parametrize(
    "damage", [lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes()[:40])]
)
def test_arrays_that_are_lost(filled, damage):
    for path in (filled / "samples").iterdir():
        damage(path)
    assert found(filled, 0) is None


def test_a_full_disk(tmp_path):
    with small_disk(tmp_path):
        # arrays of no bytes to speak of
        store, figures = Store(tmp_path, {}), {"psnr": [1.0] * 10_000}
        with pytest.raises(
            OutputError,
            match=f"{LINES} cannot be written: no space left on device. Free some space",
        ):
            store.add(Record({"seed": 0}, figures), Record({"seed": 1}, figures))


def test_without_a_folder():
    store = Store(None, {})
    store.add(Record({"seed": 0}, {"psnr": [1.0]}))
    assert store.find({"seed": 0}).figures == {"psnr": [1.0]} and store.find({"seed": 1}) is None
