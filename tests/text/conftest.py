"""A small T5, a copy to damage, and a cache of their own for these tests."""

import gc
import shutil
from pathlib import Path

import pytest
from small_t5 import make_t5

from text.use import DIM


@pytest.fixture(scope="session")
def t5(tmp_path_factory) -> Path:
    """A folder with a random T5 and its tokenizer."""
    return make_t5(tmp_path_factory.mktemp("t5"), DIM)


@pytest.fixture(scope="module", autouse=True)
def quick_collection(t5):
    """What is alive by now is left out of the garbage collection that follows each use of the
    encoder.
    """
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def copy(t5, tmp_path) -> Path:
    """The folder again, for a test to damage."""
    return Path(shutil.copytree(t5, tmp_path / "copy"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DIAGD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
