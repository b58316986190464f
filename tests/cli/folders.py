"""Clips put into a folder, and what is in one afterwards."""

import shutil


def twin(tiny, folder, name):
    """A copy of the tiny clip by another name."""
    folder.mkdir(exist_ok=True)
    return shutil.copy(tiny.clip, folder / name)


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []
