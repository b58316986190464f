"""A worker makes its batches of what any machine can reach."""

import fsspec
import pytest

from diagd_cli.files.url import place
from diagd_cli.jobs import Generation, Target, choose
from diagd_cli.jobs.settings import Machine
from diagd_cli.jobs.workers import Worker, batches, folder_of
from diagd_cli.preset_files import load_preset


@pytest.fixture
def memory():
    store = fsspec.filesystem("memory")
    yield store
    store.store.clear()
    store.pseudo_dirs[:] = [""]


def test_urls_need_no_folder(tiny, tmp_path, memory, monkeypatch):
    """Of all that is asked, nothing lies in the folder of who asks; what one worker has made
    another keeps.
    """
    preset = load_preset(tiny.preset)
    clips = [f"memory://bucket/{n}.mp4" for n in range(2)]
    for clip in clips:
        memory.pipe_file(clip, tiny.clip.read_bytes())
    targets = [Target(place(clip), place(f"{clip[:-4]}-out.mp4"), 1) for clip in clips]
    machine = Machine(device="cpu", dtype="float32")
    generation = Generation(preset, choose(preset), targets, machine=machine, batch=2)
    assert folder_of(generation) == ""
    monkeypatch.chdir(tmp_path)
    local = Generation(preset, choose(preset), [Target(tiny.clip, targets[0].output, 1)])
    assert folder_of(local) == str(tmp_path)

    [batch] = batches(generation)
    told = Worker(generation, "").make(batch)
    assert [(outcome.number, outcome.error, outcome.kept) for outcome in told] == [
        (0, "", False),
        (1, "", False),
    ]
    made = {name: file.getvalue() for name, file in memory.store.items()}
    assert len(made) == 6
    memory.rm_file("/bucket/1-out.json")
    told = Worker(generation, "").make(batch, again=True)
    assert told[0].kept and "1-out.mp4 exists already" in told[1].error  # somebody's own file
    memory.rm_file("/bucket/1-out.mp4")
    told = Worker(generation, "").make(batch, again=True)
    assert [outcome.kept for outcome in told] == [True, False]
    assert memory.store["/bucket/1-out.mp4"].getvalue() == made["/bucket/1-out.mp4"]
