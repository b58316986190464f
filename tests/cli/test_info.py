"""diagd info: the first thing to put into a bug report."""

import torch

from diagd_cli import __version__
from diagd_cli.preset_files import preset_folder, preset_names


def test_facts(diagd, tmp_path):
    [facts] = diagd("info", "--json", DIAGD_WEIGHTS=str(tmp_path)).objects
    assert facts["versions"]["diagd"] == __version__ and facts["versions"]["torch"]
    assert (
        facts["threads"] == torch.get_num_threads()
        and facts["cpus"] >= 1
        and facts["free_memory_bytes"] > 2**28
    )
    assert facts["device"].startswith(("cpu", "cuda")) and facts["presets"] == preset_names()
    assert facts["weights_folders"] == [str(tmp_path), str(preset_folder())]


def test_text_has_a_line_a_fact(diagd):
    lines = diagd("info").out.splitlines()
    assert lines[0].startswith(f"versions          diagd {__version__}, python ")
    assert {line.split()[0] for line in lines} >= {
        "platform",
        "device",
        "threads",
        "ffmpeg",
        "weights_folders",
    }
