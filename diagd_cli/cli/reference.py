"""The reference of the command line, docs/cli.md, from the commands themselves: python -m
diagd_cli.cli.reference.

Only what every version of Typer tells of a parameter is used, so that the text does not depend on
the version.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, get_type_hints

import typer
from rich.text import Text

from diagd_cli.cli.app import app
from diagd_cli.cli.help import (
    default_of,
    is_argument,
    is_option,
    option_names,
    panels_of,
    placeholder,
    usage,
)

if TYPE_CHECKING:
    from typer._click import Command
    from typer.core import TyperOption

WRITE = "python -m diagd_cli.cli.reference > docs/cli.md"
INTRODUCTION = f"""# Commands

Every command, argument and option, as `--help` tells them. This page is generated: `{WRITE}`.

An option wins over its variable, the variable over the preset, the preset over the default.
`--help` (`-h`) works everywhere, as does `diagd help COMMAND`, and `diagd` alone lists the
commands; `diagd --version` (`-V`) prints the version, `diagd --install-completion` teaches the
shell the commands. Tables and help are as wide as the terminal, or as `$COLUMNS` says, and
nothing in them is cut; elsewhere tables take what they need. Results go to stdout, everything
else, warnings too, to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted (143
by SIGTERM, 129 by SIGHUP).
"""
COMPLETION = ("--install-completion", "--show-completion", "--help")


def reference() -> str:
    """The whole page as Markdown: every command with its help, then the environment variables."""
    commands = list(commands_below(typer.main.get_command(app), "diagd"))
    below = [(name, command) for name, command in commands if " " in name]
    return "\n".join(
        [INTRODUCTION, overview(below), *(section(*each) for each in below), variables(below)]
    )


def commands_below(command: Command, name: str) -> Iterator[tuple[str, Command]]:
    """(full name, click command) of a command and of those below it, in alphabetical order."""
    yield name, command
    for below, each in sorted(getattr(command, "commands", {}).items()):
        yield from commands_below(each, f"{name} {below}")


def overview(commands: list[tuple[str, Command]]) -> str:
    """A table of the commands and the first line of their help."""
    rows = [
        f"| [{name}](#{_anchor(name)}) | {_help(command.help)[0]} |" for name, command in commands
    ]
    return "\n".join(["| command | |", "|---|---|", *rows, ""])


def section(name: str, command: Command) -> str:
    """A command: its usage, its help with the examples as code, tables of arguments and options."""
    shown = [p for p in command.params if p.opts[0] not in COMPLETION]
    hints = get_type_hints(command.callback) if command.callback else {}
    arguments = [p for p in shown if is_argument(p) and not p.hidden]
    options = [p for p in shown if is_option(p) and not p.hidden]
    lines = [
        f"{'#' * (1 + name.count(' '))} {name}",
        "",
        f"    Usage: {usage(name, command)}",
        "",
        *_help(command.help),
    ]
    if below := sorted(getattr(command, "commands", {})):
        lines += [
            "Commands: " + ", ".join(f"[{each}](#{_anchor(f'{name} {each}')})" for each in below),
            "",
        ]
    if arguments:
        rows = [f"| `{placeholder(p)}` | {_prose(p.help or '')} |" for p in arguments]
        lines += ["| argument | |", "|---|---|", *rows, ""]
    for title, members in panels_of(options).items():
        lines += [f"| {title} | | default | variable |", "|---|---|---|---|"]
        lines += [_row(p, hints.get(p.name)) for p in members] + [""]
    return "\n".join(lines)


def variables(commands: list[tuple[str, Command]]) -> str:
    """A table of the environment variables, and of the options that each sets."""
    options: dict[str, str] = {}
    for _, command in commands:
        options |= {str(p.envvar): p.opts[0] for p in command.params if p.envvar}
    rows = [f"| `{variable}` | `{options[variable]}` |" for variable in sorted(options)]
    return "\n".join(
        ["## Environment variables", "", "| variable | option |", "|---|---|", *rows, ""]
    )


def _anchor(name: str) -> str:
    return name.replace(" ", "-")


def _row(option: TyperOption, hint: Any) -> str:
    """A line of the table of options."""
    names = ", ".join(f"`{name}`" for name in option_names(option, hint))
    default = default_of(option)
    value = default if default == "required" or not default else f"`{default}`"
    variable = f"`{option.envvar}`" if option.envvar else ""
    return f"| {names} | {_prose(option.help or '')} | {value} | {variable} |"


def _help(text: str | None) -> list[str]:
    """Lines of a help text: its examples, which are indented and stand alone, become one block of
    code.
    """
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", Text.from_markup(text or "").plain.strip("\n")):
        code = paragraph.startswith("  ")
        if code and lines and lines[-2].startswith("    "):
            lines.pop()
        indent = "    " if code else ""
        lines += [
            indent + (line.strip() if code else _prose(line)) for line in paragraph.splitlines()
        ] + [""]
    return lines


def _prose(text: str) -> str:
    """A text in which nothing but `code` means anything to Markdown."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(
        part if part.startswith("`") else re.sub(r"([*<|\[\]])", r"\\\1", part) for part in parts
    )


if __name__ == "__main__":
    print(reference(), end="")
