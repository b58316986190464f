"""The documentation is true: its Python and its failures run, its commands parse, its tables and
links fit the program.
"""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import typer
import yaml
from families.small import write_small_models
from pydantic import BaseModel
from tiny import moving, save_clip

import diagd_cli
from diagd_cli.cli.app import app
from diagd_cli.cli.reference import WRITE, reference
from diagd_cli.families import known
from diagd_cli.jobs.plans import summary
from diagd_cli.preset import Preset
from diagd_cli.preset_files import load_preset, preset_folder, preset_names
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.weights.memory import estimate

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
SECTIONS = {  # of a preset, whose kind decides which keys they have
    "tokenizer": [family.tokenizer.config for family in known() if family.tokenizer],
    "actions": [family.actions for family in known() if family.actions],
}
LARGEST = {".gif": 1_000_000, ".png": 400_000}  # bytes of a picture


def code_lines(page: Path) -> Iterator[str]:
    """Lines of a page's code, fenced or indented, without what they are indented by."""
    fenced = False
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield line if fenced else line[4:]


def commands(page: Path) -> list[str]:
    """The lines of a page's code that call diagd, and whole calls in the text, which may be broken
    over lines.
    """
    lines = [
        re.sub(r"^(torchrun|python) .*-m diagd_cli ", "diagd ", line.removeprefix("$ "))
        for line in code_lines(page)
    ]
    spans = re.findall(
        r"(?<!`)`(diagd [^`]+)`(?!`)", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    )
    return [line for line in lines if line.startswith("diagd ")] + [
        " ".join(s.split()) for s in spans if " -" in s
    ]


@cache
def command_line():
    return typer.main.get_command(app)


def parse(line: str) -> None:
    """Parse a call of diagd as the shell and the command line would, without running it. Raises
    what the parser raises.
    """
    words = shlex.split(line, comments=True)[1:]
    words = words[
        : next((n for n, word in enumerate(words) if word in ("|", ">", "&&", "&")), len(words))
    ]
    command, name = command_line(), "diagd"
    while words and words[0] in getattr(command, "commands", {}):
        name, command, words = f"{name} {words[0]}", command.commands[words[0]], words[1:]
    # its options act while they are parsed, so they are looked up only
    if command is command_line():
        known = {"-h", "--help"}.union(*(option.opts for option in command.params))
        assert set(words) <= known, f"unknown: {set(words) - known}"
        return
    with suppress(typer.Exit):  # --help
        command.make_context(name, words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_parse(page):
    for line in commands(page):
        try:
            parse(line)
        except Exception as error:
            pytest.fail(f"{page.name}: {line}\n{getattr(error, 'message', error)}")


@pytest.mark.parametrize(
    "wrong",
    ["diagd generat walk.mp4", "diagd plan --gird 1,2,3", "diagd generate --k two walk.mp4"],
)
def test_a_wrong_command_would_be_noticed(wrong):
    with pytest.raises(Exception, match=r"generat|gird|two"):
        parse(wrong)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_are_there(page):
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.DOTALL)
    links = [
        link
        for link in re.findall(r"\]\(([^)\s]+)\)", text)
        if not link.startswith(("http://", "https://"))
    ]
    for link in links:
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{page.name}: no {link}"
        headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE) if anchor else []
        slugs = [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]
        assert not anchor or anchor in slugs, f"{page.name}: no {link}"


def test_pictures_are_small():
    pictures = [path for path in DOCS.rglob("*") if path.suffix in LARGEST]
    assert len(pictures) >= 3
    for path in pictures:
        assert path.stat().st_size < LARGEST[path.suffix], path


def test_every_page_is_in_the_site_and_on_its_first_page():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    pages = re.findall(r"[\w-]+\.md", json.dumps(nav))
    assert sorted(pages) == [page.name for page in PAGES[1:]]
    assert all(
        f"({page})" in (DOCS / "index.md").read_text() for page in pages if page != "index.md"
    )


def test_reference_is_up_to_date():
    assert (DOCS / "cli.md").read_text() == reference(), f"Commands have changed. Run: {WRITE}"


def test_plan_of_how_it_works(diagd):
    """The step numbers that the page shows are those that the command prints."""
    lines = list(code_lines(DOCS / "how-it-works.md"))
    start = next(n for n, line in enumerate(lines) if line.startswith("$ diagd plan"))
    printed = [line for line in diagd(*shlex.split(lines[start])[2:]).out.splitlines() if line]
    assert len(printed) > 8 and lines[start + 1 :][: len(printed)] == printed


def failures() -> list[tuple[str, str]]:
    """Calls in the troubleshooting and the line that each is said to give."""
    text = "\n".join(code_lines(DOCS / "troubleshooting.md"))
    return re.findall(r"^\$ (diagd .*)\n(error: .*)$", text, re.MULTILINE)


@pytest.fixture
def trouble(clips, tmp_path, monkeypatch):
    """A folder with what the calls name, on a machine of 10.1 GB without CUDA and without
    downloaded weights.
    """
    whole = (clips / "rooms.mp4").read_bytes()
    (tmp_path / "walk.mp4").write_bytes(whole)
    (tmp_path / "short.mp4").write_bytes(whole[:20_000])
    (tmp_path / "notes.txt").write_text("hi\n")
    (tmp_path / "done.mp4").touch()
    (tmp_path / "act.json").write_text('{"action": "forward"}\n')
    preset = (preset_folder() / "freedoom.yaml").read_text().replace("kernel:", "kernle:")
    (tmp_path / "mine.yaml").write_text(preset)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("diagd_cli.weights.memory.free_memory", lambda device: 10_100_000_000)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize(("line", "said"), failures(), ids=lambda text: text[6:60])
def test_failures_are_told_as_the_troubleshooting_says(diagd, trouble, line, said):
    done = diagd(*shlex.split(line)[1:])
    told = " ".join(done.err.split()).replace(str(preset_folder()), "PRESETS")
    assert done.code in (1, 2) and told == said


def test_messages_of_the_troubleshooting_exist():
    source = "".join(path.read_text() for path in (ROOT / "diagd_cli").rglob("*.py"))
    messages = re.findall(
        r"^\| `([^`]+)` \|", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE
    )
    assert len(messages) > 8
    for message in messages:
        assert message in source, message


def keys(annotation, prefix: str = "") -> Iterator[tuple[str, str, object]]:
    """(key, kind, field) of a preset's records; the three entries for weights are told once."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        kind = (
            annotation.model_fields["kind"].default if prefix in ("tokenizer.", "actions.") else ""
        )
        for name, field in annotation.model_fields.items():
            if not field.exclude:
                yield prefix + name, kind, field
                if annotation is Preset and name in SECTIONS:
                    for record in SECTIONS[name]:
                        yield from keys(record, f"{name}.")
                    continue
                yield from keys(
                    field.annotation,
                    "weights." if name.endswith("_weights") else f"{prefix}{name}.",
                )
    for part in get_args(annotation):
        yield from keys(part, prefix)


def written(field) -> str:
    """The default of a field as the tables have it."""
    if field.is_required():
        return "required"
    value = field.default
    if value in (None, "", ()) or isinstance(value, BaseModel):
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def test_every_key_of_a_preset_is_told_with_its_default():
    rows = re.findall(
        r"^\| (`.*?) \|(.*?)\|(.*?)\|",
        (DOCS / "presets.md").read_text().split("## Every key")[1],
        re.M,
    )
    told = {
        (key, kind.strip(" `")): default.strip()
        for names, kind, default in rows
        for key in re.findall(r"`(.*?)`", names)
    }
    assert told == {(key, kind): written(field) for key, kind, field in keys(Preset)}


def test_the_example_preset_is_one(tmp_path):
    block = re.search(r"```yaml\n(.*?)```", (DOCS / "presets.md").read_text(), re.DOTALL)[1]
    (tmp_path / "mine.yaml").write_text(block)
    preset = load_preset(tmp_path / "mine.yaml")
    assert (preset.grid.h, preset.grid.w) == (15, 20) and preset.tokenizer == load_preset(
        "freedoom"
    ).tokenizer


def test_table_of_presets():
    rows = re.findall(
        r"^\| `([\w.-]+)` \| \d+x\d+.*$", (DOCS / "presets.md").read_text(), re.MULTILINE
    )
    assert sorted(rows) == preset_names()
    for name in rows:
        preset = load_preset(name)
        grid, clip = preset.grid, preset.clip
        bytes_ = [
            estimate(preset, dtype=dtype, codec_dtype="float32").total / 1e9
            for dtype in ("float32", "bfloat16")
        ]
        cells = [
            f"`{name}`",
            f"{grid.h}x{grid.w}"
            + (f", {grid.conditioning} of actions" if grid.conditioning else ""),
            f"{clip.context} + {clip.frames}",
            f"{clip.window}, {clip.overlap}",
            preset.decoding.decoding.label(grid),
            *(f"{size:.1f} GB" if size >= 1 else f"{size:.2f} GB" for size in bytes_),
        ]
        assert f"| {' | '.join(cells)} |" in (DOCS / "presets.md").read_text(), cells


def test_table_of_models():
    """Every preset has a row, with the steps that `diagd plan` tells."""
    told = {}
    models = (DOCS / "presets.md").read_text().split("## Official models")[1].split("\n### ")[0]
    for row in re.findall(r"^\| (`.*) \|$", models, re.MULTILINE):
        names, *cells = row.split(" | ")
        numbers = [int(number.replace(",", "")) for number in cells[4].split(", ")]
        told |= dict.fromkeys(re.findall(r"`([\w.-]+)`", names), numbers)
    assert sorted(told) == preset_names()
    for name, steps in told.items():
        preset = load_preset(name)
        frames = preset.context, preset.new_latents(preset.clip.frames)
        orders = Decoding("ntp"), preset.decoding.decoding
        assert steps == [summary(preset.grid, *frames, d, preset)["steps"] for d in orders], name


def codes_of(diagd, *options) -> np.ndarray:
    """The tokens int64 [T, h, w] that the command makes of walk.mp4 by seed 0."""
    output = ("-o", "made.mp4", "--save-tokens", "--seed", 0)
    assert diagd("generate", "walk.mp4", *output, *options).code == 0
    return np.load("made.npz")["codes"]


def python_blocks() -> list[str]:
    """The examples of the page on Python."""
    return re.findall(r"```python\n(.*?)```", (DOCS / "python.md").read_text(), re.DOTALL)


def test_the_example_of_jobs(tiny, tmp_path, monkeypatch):
    """With a preset that is quick: the sweep takes from the folder what the evaluation has made."""
    monkeypatch.chdir(tmp_path)
    for suffix in (".mp4", ".jsonl"):
        shutil.copy(tiny.clip.with_suffix(suffix), f"walk{suffix}")
    preset = load_preset(tiny.preset)
    names = {"diagd": diagd_cli, "preset": preset, "grid": preset.grid, "context": preset.context}
    [block] = [block for block in python_blocks() if "jobs.evaluate" in block]
    exec(block, names)
    report, swept = names["report"], names["swept"]
    assert [(row.label, row.nll) for row in swept.rows] == [
        (row.label, row.nll) for row in report.rows[2:]
    ]
    assert swept.recommended and (tmp_path / "results" / "sweep.html").exists()


def test_python_examples(diagd, tmp_path, monkeypatch):
    """They run, and make what the command makes: by the shipped preset made small, and a clip of
    its size.
    """
    monkeypatch.chdir(tmp_path)
    small = write_small_models("freedoom", Path())
    frames = moving(9, load_preset(small).clip.height, load_preset(small).clip.width)
    save_clip(Path("walk.mp4"), frames).with_suffix(".jsonl").write_text('{"action": "left"}\n' * 9)
    blocks = python_blocks()
    names: dict = {}
    for block in (block for block in blocks if "jobs.evaluate" not in block):
        block = block.replace('"freedoom"', f'"{small}"')
        exec(compile(block, "python.md", "exec"), names)
    assert len(blocks) > 5
    assert names["result"].frames.shape == (6, 32, 48, 3)
    assert (names["result"].codes == codes_of(diagd, "-p", small, "--frames", 2)).all()
    assert names["made"].shape == (1, names["plan"].length)
    assert (names["made"][:, : names["ids"].shape[1]] == names["ids"]).all()
    assert names["session"].latents == names["context"] + 2


def test_the_example_of_the_readme(diagd, clips, tmp_path, monkeypatch):
    """By the preset that ships, for a clip that has its actions beside it."""
    monkeypatch.chdir(tmp_path)
    for suffix in (".mp4", ".jsonl"):
        shutil.copy(clips / f"rooms{suffix}", f"walk{suffix}")
    lines = list(code_lines(ROOT / "README.md"))
    start = lines.index("import diagd_cli as diagd")
    example = [line for line in lines[start : start + 9] if line][:5]
    assert example[-1].endswith("those of diagd generate walk.mp4 --frames 16 --seed 0")
    names: dict = {}
    exec("\n".join(example).replace("frames=16", "frames=1"), names)
    assert (names["result"].codes == codes_of(diagd, "--frames", 1)).all()


def test_everything_public_is_there():
    for name in diagd_cli.__all__:
        assert getattr(diagd_cli, name) is not None and name in dir(diagd_cli)
