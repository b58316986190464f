"""The documentation's Python runs, in the order in which it is read."""

import re
import shutil
from pathlib import Path

import diagd_cli

DOCS = Path(__file__).parent.parent / "docs"


def test_python_examples(clips, tmp_path, monkeypatch):
    shutil.copy(clips / "rooms.mp4", tmp_path / "walk.mp4")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "python.md").read_text(), re.DOTALL)
    names: dict = {}
    for block in blocks:
        exec(compile(block, "python.md", "exec"), names)
    assert len(blocks) > 5
    assert names["result"].frames.shape == (6, 120, 160, 3)
    assert names["made"].shape == (1, names["plan"].length)
    assert (names["made"][:, : names["ids"].shape[1]] == names["ids"]).all()


def test_everything_public_is_there():
    for name in diagd_cli.__all__:
        assert getattr(diagd_cli, name) is not None and name in dir(diagd_cli)
