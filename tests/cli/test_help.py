"""Help: every command has it, with examples, and it does not wait for heavy imports."""

import contextlib
import os
import re
import subprocess
import sys

import pytest
import typer
from conftest import Done

from diagd_cli import __version__
from diagd_cli.cli.app import app
from diagd_cli.cli.help import panels_of
from diagd_cli.cli.reference import commands_below
from diagd_cli.preset_files import preset_folder

COMMANDS = [
    "generate",
    "compare",
    "plan",
    "attention",
    "bench",
    "eval",
    "sweep",
    "vote",
    "embed",
    "record",
    "train",
]
COMMANDS += ["finetune", "presets", "weights", "info"]
SUBCOMMANDS = [
    "presets list",
    "presets show",
    "presets check",
    "train tokenizer",
    "train transformer",
    "train inverse",
]
SUBCOMMANDS += ["vote pack", "vote count"]
HEAVY = {
    "torch",
    "numpy",
    "matplotlib",
    "yaml",
    "imageio",
    "imageio_ffmpeg",
    "safetensors",
    "PIL",
    "jinja2",
}


def test_lists_all_commands(diagd):
    for words in (["--help"], ["-h"], ["help"], []):
        done = diagd(*words)
        assert done.code == 0 and all(f"│ {command} " in done.out for command in COMMANDS)
        assert done.err == "" and done.out == diagd("--help").out


def test_a_group_alone_lists_its_commands(diagd):
    for group in ("vote", "train"):
        assert (
            diagd(group) == diagd(group, "--help") == diagd("help", group)
            and diagd(group).code == 0
        )


PANELS_OF_GENERATE = [
    "Arguments",
    "Input",
    "Decoding",
    "Sampling",
    "Steering",
    "Output",
    "Machine",
    "Options",
]


def test_options_are_in_panels(diagd):
    """The same ones in every command; what is in none stands below, and of a command that runs a
    model that is --help.
    """
    titles = re.findall(r"^╭─ ([\w ]+) ─", diagd("generate", "--help").out, re.MULTILINE)
    assert titles == PANELS_OF_GENERATE
    for name, command in commands_below(typer.main.get_command(app), "diagd"):
        if not getattr(command, "commands", None):
            assert "Options" not in panels_of(
                p for p in command.params if p.param_type_name == "option"
            ), name
    commands = re.findall(r"^╭─ ([\w ]+) ─", diagd("--help").out, re.MULTILINE)
    assert commands == ["Generate", "Measure", "Train", "Models and machine", "Options"]


@pytest.mark.parametrize("columns", [60])
def test_help_is_whole_at_any_width(diagd, columns):
    """No line is longer, and no name, default or variable is cut."""
    for name, command in commands_below(typer.main.get_command(app), "diagd"):
        text = diagd(*name.split()[1:], "--help", COLUMNS=str(columns)).out
        assert "…" not in text and max(map(len, text.splitlines())) <= columns, name
        flat = " ".join(text.replace("│", "").split())
        for option in command.params:
            assert all(f"{each}" in flat for each in option.opts if each.startswith("-"))
            assert " ".join((option.help or "").split()) in flat and (
                not option.envvar or f"[env: {option.envvar}]" in flat
            )


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {}])
def test_help_on_a_terminal_and_beside_it(start, variables):
    """As wide as the terminal, in colour where that is wanted; in a pipe of the usual width."""
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")
    environment = {
        name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")
    }
    environment |= {"TERM": "xterm", **variables}
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 60)) if hasattr(termios, "tcsetwinsize") else pytest.skip(
        "needs Python 3.11"
    )
    process = start("vote", "pack", "--help", stdout=theirs, env=environment)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the end, on Linux
        while part := os.read(ours, 10_000):
            shown += part
    process.wait(60)
    os.close(ours)
    assert (b"36m" in shown) == (not variables) and (b"\x1b[" in shown) == ("TERM" not in variables)
    plain = re.sub(r"\x1b\[[\d;]*m", "", shown.decode())
    assert max(map(len, plain.splitlines())) == 60 and "--question <str>" in plain
    if not variables:
        piped = start("vote", "pack", "--help", env=environment).communicate(timeout=60)[0]
        assert max(map(len, piped.splitlines())) == 80 and "\x1b" not in piped


@pytest.mark.parametrize("command", COMMANDS + SUBCOMMANDS)
def test_every_command(diagd, command):
    done = diagd(*command.split(), "--help")
    assert done.code == 0 and f"Usage: diagd {command}" in done.out
    examples = [line for line in done.out.splitlines() if line.strip().startswith("diagd ")]
    assert len(examples) >= 2 or command in SUBCOMMANDS


def test_examples_fit_on_their_lines(diagd):
    """Help is wrapped at 80 columns: a line of an example that begins with anything else has been
    cut off.
    """
    for command in COMMANDS:
        text = diagd(command, "--help").out.split("Examples")[1].split("╭")[0]
        assert all(line.startswith("diagd ") for line in map(str.strip, text.splitlines()) if line)


def test_nothing_in_square_brackets_is_lost(diagd):
    """rich takes [words] for markup: a default that is told in them would not be seen."""
    assert "the preset's number by default." in " ".join(
        diagd("generate", "--help").out.replace("│", "").split()
    )


def test_version(diagd):
    for option in ("--version", "-V"):
        assert diagd(option) == Done(0, f"diagd {__version__}\n", "")


@pytest.mark.parametrize(
    "words, told",
    [
        ("genrate walk.mp4", "No such command 'genrate'. Did you mean 'generate'? See: diagd --help"),
        ("help genrate", "No such command 'genrate'. Did you mean 'generate'? See: diagd --help"),
        ("Vote", "No such command 'Vote'. Did you mean 'vote'? See: diagd --help"),
        ("vote cuont", "No such command 'cuont'. Did you mean 'count'? See: diagd vote --help"),
        ("pack", "No such command 'pack'. Did you mean 'vote pack'? See: diagd --help"),
        ("xyzzy", "No such command 'xyzzy'. See: diagd --help"),
        ("--verison", "No such option: --verison. Did you mean --version? See: diagd --help"),
        ("--preset freedoom plan", "No such option: --preset. It belongs after the command. See: "
                                   "diagd --help"),
        ("plan --decodng ntp", "No such option: --decodng. Did you mean --decoding? See: diagd "
                               "plan --help"),
        ("plan --compare_with ntp", "No such option: --compare_with. Did you mean --compare-with? "
                                    "See: diagd plan --help"),
        ("plan --xyzzy", "No such option: --xyzzy. See: diagd plan --help"),
        ("generate", "Missing argument 'CLIPS...'. See: diagd generate --help"),
        ("plan -p freedom", "Unknown preset 'freedom'. Did you mean freedoom?"),
        ("plan --decoding NTP", "Invalid value for '--decoding': 'NTP' is not one of ntp, exact, diagd, "
                                "spatial, zipar. Did you "
         "mean ntp? See: diagd plan --help"),
        ("plan --compare-with spacial --animate a.gif", "Invalid value for '--compare-with': "
                                                        "'spacial' is not one of ntp, exact, "
         "diagd, spatial, zipar. Did you mean spatial? See: diagd plan --help"),
        ("train tokenizer . --recipe freedom", "No recipe PRESETS/recipes/freedom.yaml. Did you "
                                               "mean freedoom?"),
    ],
)  # fmt: skip
def test_a_guess_at_what_was_meant(diagd, words, told):
    done = diagd(*words.split())
    assert (done.code, done.out, done.err.replace(str(preset_folder()), "PRESETS")) == (
        2,
        "",
        f"error: {told}\n",
    )


def test_a_clip_without_a_command(diagd, tiny):
    assert f"Did you mean 'generate {tiny.clip}'?" in diagd(tiny.clip).err


@pytest.mark.parametrize(
    "option, value, guess",
    [("--dtype", "bf16", "bfloat16"), ("--dtype", "int8", ""), ("--stand-in", "abov", "above"),
     ("--top-p-rule", "nuclues", "nucleus"), ("--kv-dtype", "flaot16", "float16"), ("--offload", "tokeniser", "tokenizer")],
)  # fmt: skip
def test_a_guess_at_a_value(diagd, tiny, tmp_path, option, value, guess):
    done = diagd(
        "generate", tiny.clip, "-p", tiny.preset, "-o", tmp_path / "out.mp4", option, value
    )
    assert (
        done.code == 2 and (f"Did you mean {guess}?" if guess else "Use auto, float32") in done.err
    )


def test_imports_nothing_heavy():
    code = f"""
import sys
from diagd_cli.cli.app import app
for words in (["--help"], ["generate", "--help"], ["bench", "--help"], ["train", "transformer", "--help"]):
    try:
        app(words)
    except SystemExit as end:
        assert not end.code
print({HEAVY} & sys.modules.keys(), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("Usage: ") == 4 and done.stderr == "set()\n"
