"""diagd embed: a prompt's embedding as a file, for machines that cannot hold the text encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diagd_cli.cli import options as o
from diagd_cli.cli.console import Reporter
from diagd_cli.cli.guard import guard
from diagd_cli.cli.kinds import FILE
from diagd_cli.errors import UsageError
from diagd_cli.inputs import preset_inputs

HELP = """Run a preset's text encoder on a prompt, and write what generate --prompt-embedding reads.

[bold]Examples[/]

  diagd embed 'A drone flies over a harbour' -o harbour.safetensors

  diagd embed --prompt-file prompt.txt --preset cosmos-13b-video2world
"""


def embed(
    prompt: Annotated[str | None, typer.Argument(help="The text; or use --prompt-file.")] = None,
    prompt_file: o.PromptFileOption = None,
    preset: o.PresetOption = "cosmos-5b-video2world",
    output: Annotated[
        Path, typer.Option("-o", "--output", **FILE, help="A .safetensors file.")
    ] = Path("prompt.safetensors"),
    force: o.ForceOption = False,
    quiet: o.QuietOption = False,
    verbose: o.VerboseOption = False,
) -> None:
    reporter = Reporter(quiet, verbose)
    with guard(reporter):
        from diagd_cli.files.atomic import atomic
        from diagd_cli.files.outputs import check_outputs
        from diagd_cli.jobs.prompts import Prompts
        from diagd_cli.preset_files import load_preset
        from diagd_cli.tokens.text import prompt_of

        chosen, text = load_preset(preset), prompt_of(prompt, prompt_file)
        if text is None:
            raise UsageError("There is no prompt", "Give a text or --prompt-file")
        if chosen.text is None:
            raise UsageError(f"The preset {chosen.name} takes no text", "Use a video2world preset")
        reads = preset_inputs(chosen, weights=False) + (
            [(prompt_file, "the prompt")] if prompt_file else []
        )
        check_outputs([(output, "the embedding")], reads, force=force)
        prompts = Prompts(chosen, {output: text})
        prompts.embed(reporter)
        from safetensors.torch import save

        embedding = prompts.of(output)
        assert embedding is not None  # its text has just been embedded
        with atomic(output) as part:
            part.write_bytes(
                save({"embedding": embedding}, {"prompt": text, "encoder": chosen.text.encoder})
            )
        reporter.result(str(output))
