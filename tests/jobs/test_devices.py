"""A process for each of several devices: two CPUs here, as --device cuda:all takes GPUs."""

from pathlib import Path

from tiny import moving, save_clip

from diagd_cli import jobs
from diagd_cli.jobs.devices import generate_on_devices
from diagd_cli.jobs.generation import check
from diagd_cli.preset_files import load_preset


def test_two_processes_make_what_one_makes(tiny, tmp_path):
    """By batches; a clip that cannot be read fails alone."""
    clips = [save_clip(tmp_path / "in" / f"{n}.mp4", moving(4 + n)) for n in range(5)]
    preset = load_preset(tiny.preset)

    def asked(folder: str, *more: Path) -> jobs.Generation:
        targets = jobs.continuations([*clips, *more], tmp_path / folder, seed=7)
        machine = jobs.Machine(dtype="float32")
        settings = jobs.choose(preset, seed=7)
        return jobs.Generation(preset, settings, targets, machine=machine, batch=2)

    many, seen = asked("many", tmp_path / "gone.mp4"), []
    check(many)
    made = generate_on_devices(many, ["cpu", "cpu"], on_video=seen.append)
    assert made.failed == [tmp_path / "gone.mp4"] and "does not exist" in str(made.failures)
    assert sorted(video.output.name for video in seen) == [f"{n}.mp4" for n in range(5)]
    alone = jobs.generate(asked("one"))
    for video in alone.videos:
        other = tmp_path / "many" / video.output.name
        assert other.read_bytes() == video.output.read_bytes()
    assert not list((tmp_path / "many").glob(".*"))


def test_without_gpus_there_are_none(diagd, tiny, tmp_path):
    done = diagd("generate", tiny.clip, "-p", tiny.preset, "-o", tmp_path, "--device", "cuda:all")
    assert done.code == 1 and "error: No CUDA device is available" in done.err
