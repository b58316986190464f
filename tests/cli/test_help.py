"""Help: every command has it, with examples, and it does not wait for heavy imports."""

import subprocess
import sys

import pytest

from diagd_cli import __version__

COMMANDS = ["generate", "compare", "plan", "attention", "bench", "eval", "sweep", "vote", "embed", "record", "train"]
COMMANDS += ["finetune", "presets", "weights", "info"]
SUBCOMMANDS = ["presets list", "presets show", "presets check", "train tokenizer", "train transformer", "train inverse"]
SUBCOMMANDS += ["vote pack", "vote count"]
HEAVY = {"torch", "numpy", "yaml", "imageio", "imageio_ffmpeg", "safetensors", "PIL"}


def test_lists_all_commands(diagd):
    for option in ("--help", "-h"):
        done = diagd(option)
        assert done.code == 0 and all(f"│ {command} " in done.out for command in COMMANDS)
    assert diagd().out.strip() == done.out.strip()


@pytest.mark.parametrize("command", COMMANDS + SUBCOMMANDS)
def test_every_command(diagd, command):
    done = diagd(*command.split(), "--help")
    assert done.code == 0 and f"Usage: diagd {command}" in done.out
    examples = [line for line in done.out.splitlines() if line.strip().startswith("diagd ")]
    assert len(examples) >= 2 or command in SUBCOMMANDS


def test_examples_fit_on_their_lines(diagd):
    """Help is wrapped at 80 columns: a line of an example that begins with anything else has been cut off."""
    for command in COMMANDS:
        text = diagd(command, "--help").out.split("Examples")[1].split("╭")[0]
        assert all(line.startswith("diagd ") for line in map(str.strip, text.splitlines()) if line)


def test_nothing_in_square_brackets_is_lost(diagd):
    """rich takes [words] for markup: a default that is told in them would not be seen."""
    assert "the preset's number by default." in " ".join(diagd("generate", "--help").out.replace("│", "").split())


def test_version(diagd):
    assert diagd("--version").out == f"diagd {__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"], ["train", "transformer", "--help"]])
def test_imports_nothing_heavy(arguments):
    code = (
        "import sys\nfrom diagd_cli.cli.app import app\n"
        f"try: app({arguments})\n"
        f"finally: sys.stderr.write(' '.join({HEAVY} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
