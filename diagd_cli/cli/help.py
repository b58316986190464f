"""What --help shows: options in panels, the same ones in every command, as wide as the terminal and
never cut.

Only what every version of Typer tells of a parameter is used, so that the text does not depend on
the version.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, get_args, get_type_hints

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.panel import Panel
from rich.text import Text
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from diagd_cli.cli.layout import listed, width_of, wrapped
from diagd_cli.errors import did_you_mean, near

# Typer's own copy of click, or in its older versions click: which one it is makes no difference
# here
if TYPE_CHECKING:
    from typer._click import Command as ClickCommand
    from typer._click import Context, HelpFormatter, Parameter
    from typer._click.exceptions import UsageError as ClickUsageError
    from typer.models import CommandFunctionType

# columns: at which lines are still easy to read; where there is no terminal
WIDEST, USUAL = 100, 80
BESIDE = 27  # columns of names, beyond which their text stands below them
OTHERS = "Options"
KEEP = "\u00a0"  # a space between words that stay together
# where an option is, by its name; one that means something else in some command says so itself
PANELS = {
    "Input": "manifest shard preset base-preset recipe init context start grid key episodes "
    "scenarios height width",
    "Decoding": "frames decoding decodings k d stand-in stand-ins repair repairs window "
    "windows sinks balance batch",
    "Sampling": "temperature top-p top-p-rule top-k seed seeds samples",
    "Steering": "actions prompt prompt-file prompt-embedding negative-prompt label guidance",
    "Looking": "layer head frame radius",
    "Measuring": "dtypes repeats steps pixels i3d vbench-results recommend",
    "Serving": "fps sessions host port browser",
    "Training": "lr accumulate scheduled-sampling every precision cache",
    "Output": "output out record stream save-tokens picture heat race sheet html plot chart "
    "animate compare-with export-vbench write-preset question bits force resume dry-run json "
    "quiet verbose",
    "Machine": "device dtype weights kv-dtype offload threads compile weights-dir "
    "random-weights token ray workers tp",
}
COMMANDS = {
    "Generate": "generate play compare plan",
    "Measure": "eval sweep bench attention vote",
    "Train": "record train finetune",
    "Models and machine": "presets weights embed info",
}
PANEL_OF = {f"--{name}": panel for panel, names in PANELS.items() for name in names.split()}
KINDS = {Path: "<path>", int: "<int>", float: "<float>", str: "<str>"}


class Command(TyperCommand):
    """Typer's command, with that help."""

    def format_help(self, ctx: Context, formatter: HelpFormatter) -> None:
        formatter.write(help_text(self, ctx))


class Group(TyperGroup):
    """Typer's group, with that help."""

    def format_help(self, ctx: Context, formatter: HelpFormatter) -> None:
        formatter.write(help_text(self, ctx))


class Commands(typer.Typer):
    """Typer, whose commands and groups have that help."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"cls": Group, "rich_markup_mode": "rich", **settings})

    def command(
        self, *names: str | None, **settings: Any
    ) -> Callable[[CommandFunctionType], CommandFunctionType]:
        return super().command(*names, **{"cls": Command, **settings})


# ---- of one command ------------------------------------------------------------------------------


def is_argument(parameter: Parameter) -> TypeGuard[TyperArgument]:
    """Whether it is an argument, not an option."""
    return parameter.param_type_name == "argument"


def is_option(parameter: Parameter) -> TypeGuard[TyperOption]:
    """Whether it is an option, not an argument."""
    return parameter.param_type_name == "option"


def placeholder(argument: TyperArgument) -> str:
    """An argument as usage shows it."""
    name = (argument.metavar or argument.name.upper()) + ("..." if argument.nargs != 1 else "")
    return name if argument.required else f"[{name}]"


def usage(name: str, command: ClickCommand) -> str:
    """A command with what it takes."""
    arguments = [p for p in command.params if is_argument(p) and not p.hidden]
    options = any(is_option(p) for p in command.params)
    below = ["COMMAND ..."] if getattr(command, "commands", None) else []
    return " ".join(
        [name, *(["[OPTIONS]"] if options else []), *map(placeholder, arguments), *below]
    )


def option_names(option: TyperOption, hint: Any = None) -> list[str]:
    """The names of an option, the long one first and with what it takes."""
    kind = "" if option.is_flag else " " + (option.metavar or _kind(hint))
    first, *others = [*sorted(option.opts, key=len, reverse=True), *option.secondary_opts]
    return [first + kind, *others]


def default_of(option: TyperOption) -> str:
    """What an option is where it is not given; "" for nothing."""
    default = option.default
    if option.is_flag:
        return (
            (option.opts if default else option.secondary_opts)[0] if option.secondary_opts else ""
        )
    return "required" if option.required else "" if default in (None, "", ()) else str(default)


def panels_of(options: Iterable[TyperOption]) -> dict[str, list[TyperOption]]:
    """The options of a command by panel, in the order of `PANELS`."""
    found: dict[str, list[TyperOption]] = {panel: [] for panel in [*PANELS, OTHERS]}
    for option in options:
        own = getattr(option, "rich_help_panel", None)
        found[own or PANEL_OF.get(max(option.opts, key=len), OTHERS)].append(option)
    return {panel: members for panel, members in found.items() if members}


def _kind(hint: Any) -> str:
    return next((KINDS[kind] for kind in (hint, *get_args(hint)) if kind in KINDS), "<str>")


# ---- of what cannot be read ----------------------------------------------------------------------


def asked_for_help(words: Sequence[str] | None) -> Sequence[str] | None:
    """The words of a call; `help COMMAND` as `COMMAND --help`. None are those of the process."""
    given = sys.argv[1:] if words is None else list(words)
    return [*given[1:], "--help"] if given[:1] == ["help"] else words


def usage_message(error: ClickUsageError) -> str:
    """What is wrong with a call, what may have been meant, and where to read on."""
    kind, ctx = type(error).__name__, error.ctx
    text = error.format_message()
    option, parameter = getattr(error, "option_name", ""), getattr(error, "param", None)
    if kind == "NoSuchOption" and ctx:
        text = f"No such option: {option}. {meant_option(option, ctx.command)}".rstrip()
    elif kind == "MissingParameter" and parameter and is_argument(parameter):
        text = f"Missing argument '{placeholder(parameter)}'"
    elif ctx and (missing := re.match(r"No such command '(.*?)'", text)):
        text = f"{missing[0]}. {meant_command(missing[1], ctx)}".rstrip()
    # an option's variable is named only where it is set
    text = re.sub(r" \(env var: '(\w+)'\)", lambda m: m[0] if m[1] in os.environ else "", text)
    text += "" if text.endswith((".", "?")) else "."
    return f"{text} See: {ctx.command_path} --help" if ctx else text


def meant_option(name: str, command: ClickCommand) -> str:
    """A guess at an option that there is; "" for none."""
    own = [
        option
        for p in command.params
        for option in (*p.opts, *p.secondary_opts)
        if option.startswith("-")
    ]
    if guess := did_you_mean(name, [*own, "--help"]):
        return guess
    begun = [option for option in own if name.startswith("--") and option.startswith(name)]
    if begun:
        return f"Did you mean {' or '.join(begun)}?"
    below = getattr(command, "commands", {}).values()
    if any(name in p.opts for each in below for p in each.params):
        return "It belongs after the command"
    return ""


def meant_command(name: str, ctx: Context) -> str:
    """A guess at a command that there is; "" for none."""
    known: dict[str, Any] = getattr(ctx.command, "commands", {})
    if guess := near(name, known):
        return f"Did you mean {guess[0]!r}?"
    if ctx.parent is None:
        if inner := next(
            (f"{each} {name}" for each in known if name in getattr(known[each], "commands", {})),
            None,
        ):
            return f"Did you mean {inner!r}?"
        if os.path.isfile(name):
            return f"Did you mean {f'generate {name}'!r}?"
    return ""


# ---- on a terminal -------------------------------------------------------------------------------


def help_text(command: ClickCommand, ctx: Context) -> str:
    """The whole of it, with colours where stdout shows them."""
    width = min(width_of(sys.stdout) or USUAL, WIDEST)
    # with a height, TERM=dumb changes no width
    console = Console(width=width, height=1, highlight=False, emoji=False)
    hints = get_type_hints(command.callback) if command.callback else {}
    parameters = command.get_params(ctx)
    options = [p for p in parameters if is_option(p) and not p.hidden]
    arguments = [
        (placeholder(p), p.help or "") for p in parameters if is_argument(p) and not p.hidden
    ]
    boxes = {"Arguments": arguments} if arguments else {}
    boxes |= commands_of(command, ctx.parent is None)
    for title, members in panels_of(options).items():
        boxes[title] = [(", ".join(option_names(p, hints.get(p.name))), _told(p)) for p in members]
    with console.capture() as text:
        console.print(
            Text.assemble(("Usage:", "bold"), " ", usage(ctx.command_path, command)),
            overflow="fold",
        )
        console.print("\n" + about(command.help or "", width) + "\n")
        for title, rows in boxes.items():
            console.print(panel(title, rows, width))
    return text.get().rstrip("\n")


def about(text: str, width: int) -> str:
    """A command's help, in rich's markup, broken into lines; a comment with no room behind its
    example stands above it.
    """
    lines = []
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        example = re.fullmatch(r"  (diagd .*?)\s+(# .*)", paragraph)
        if example and cell_len(paragraph) > width:
            lines += [*wrapped(f"  {example[2]}", width), *wrapped(f"  {example[1]}", width), ""]
        else:
            lines += [
                *wrapped(
                    paragraph if paragraph.startswith("  ") else " ".join(paragraph.split()), width
                ),
                "",
            ]
    return "\n".join(lines).rstrip("\n")


def panel(title: str, rows: list[tuple[str, str]], width: int) -> Panel:
    """Names and what they are, side by side; where names are long or the terminal is narrow, one
    below the other.
    """
    stop = min(max(cell_len(name) for name, _ in rows) + 2, BESIDE)
    lines = [line.replace(KEEP, " ") for row in rows for line in listed(row, [stop], width - 4)]
    text = Text("\n".join(lines))
    text.highlight_regex(r"(?m)^-{1,2}[\w-]+( <\w+>)?(, -{1,2}[\w-]+)*", "cyan")
    return Panel(text, title=title, title_align="left", border_style="dim")


def commands_of(group: ClickCommand, whole: bool) -> dict[str, list[tuple[str, str]]]:
    """Names of the commands below with the first line of their help, by panel where that is the
    `whole` of diagd.
    """
    known: dict[str, Any] = getattr(group, "commands", {})
    found = {
        title: [name for name in names.split() if name in known]
        for title, names in COMMANDS.items()
        if whole
    }
    found["Commands"] = [
        name for name in known if not any(name in names for names in found.values())
    ]
    first = {name: (command.help or "").strip().split("\n")[0] for name, command in known.items()}
    return {
        title: [(name, first[name]) for name in names] for title, names in found.items() if names
    }


def _told(option: TyperOption) -> str:
    default = default_of(option)
    more = [f"[env: {option.envvar}]"] if option.envvar else []
    more += (
        ["[required]"] if default == "required" else [f"[default: {default}]"] if default else []
    )
    return " ".join([option.help or "", *(told.replace(" ", KEEP) for told in more)])
