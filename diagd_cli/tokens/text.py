"""Text prompts: a T5 encoder makes the embeddings that a Transformer attends to, and a cache keeps
them.

The encoder is larger than many machines' memory. So it is loaded once for all prompts, freed again,
and never loaded for a prompt that has been embedded before; a cached embedding can be carried to a
machine that cannot hold the encoder.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from diagd_cli.errors import OutputError, UsageError, WeightsError, one_line
from diagd_cli.files.atomic import atomic
from diagd_cli.files.cache import cache_folder
from diagd_cli.tokens.t5 import encode

if TYPE_CHECKING:
    from torch import Tensor

    from diagd_cli.preset import Preset
    from diagd_cli.sections import Text

LARGEST_PROMPT = 1 << 16  # bytes of a prompt file


def prompt_of(prompt: str | None, prompt_file: Path | None) -> str | None:
    """The text of a prompt, given itself or as a file: UTF-8, at most 64 KiB, stripped. None where
    neither is given.

    Raises UsageError.
    """
    if prompt_file is None:
        return prompt if prompt is None else _utf8(prompt)
    if prompt is not None:
        raise UsageError("A prompt and a prompt file are both given", "Give one of them")
    try:
        with prompt_file.open("rb") as file:
            content = file.read(LARGEST_PROMPT + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(
            f"The prompt file {prompt_file} cannot be read: {reason}", "Name a text file"
        ) from None
    if len(content) > LARGEST_PROMPT:
        raise UsageError(
            f"The prompt file {prompt_file} is larger than 64 KiB",
            "Name a text file with one prompt",
        )
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        message = (
            f"The prompt file {prompt_file} is not UTF-8 text: byte {error.start} is "
            f"{content[error.start]:#04x}"
        )
        raise UsageError(message, "Save it as UTF-8") from None


def embed_prompts(
    prompts: list[str],
    text: Text,
    dim: int,
    *,
    cache: Path | None = None,
    report: Callable[[str], object] = lambda message: None,
) -> list[Tensor]:
    """The embedding of each prompt, float32 [length, dim]: the last hidden state of the encoder,
    zero after its tokens.

    `text.encoder` is a Hugging Face name, which is fetched if need be, or a local folder; `cache`
    as in `embedding_path`; `report` is told what the user should know. A prompt of more than
    `text.length` tokens, its end token included, is cut. The encoder runs in float32 on the CPU: 19
    GB for T5-11B. In bfloat16 it would take half of that and change the embeddings by about 1 % (a
    random T5 of 24 layers), so it is not offered.

    Raises MissingExtra without transformers, WeightsError for an encoder that is not to be had,
    damaged, larger than the free memory, or of another hidden size than `dim`, and UsageError for a
    prompt that is not Unicode text.
    """
    paths = {_utf8(prompt): embedding_path(prompt, text, dim, cache) for prompt in prompts}
    cached = {prompt: _cached(path, text.length, dim) for prompt, path in paths.items()}
    found = {prompt: embedding for prompt, embedding in cached.items() if embedding is not None}
    missing = [prompt for prompt in paths if prompt not in found]
    if missing:
        for prompt, rows in zip(missing, encode(missing, text, dim, report), strict=True):
            found[prompt] = _padded(rows, text.length)
            _store(paths[prompt], rows, {"prompt": prompt, "encoder": text.encoder}, report)
        gc.collect()  # the encoder is out of scope; what refers to itself in it goes too
    return [found[prompt] for prompt in prompts]


def embedding_path(prompt: str, text: Text, dim: int, cache: Path | None = None) -> Path:
    """Where a prompt's embedding is cached: in `text/` below `cache`, by default $DIAGD_CACHE or
    the user's cache folder.

    The file's name stands for prompt, encoder, length and dim. It holds the rows of the prompt's
    tokens alone, and `read_embedding` reads it.
    """
    cache = cache_folder() if cache is None else cache
    key = json.dumps([prompt, text.encoder, text.length, dim])
    return cache / "text" / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"


def encoder_folder(preset: Preset) -> Path | None:
    """The folder of a text encoder that lies beside its preset, None where it is one of the
    hub's.
    """
    beside = preset.path.parent / preset.text.encoder if preset.path and preset.text else None
    return beside if beside and os.path.isdir(beside) else None


def read_embedding(path: Path, length: int, dim: int) -> Tensor:
    """An embedding from a safetensors file, float32 [length, dim], zero after its own rows.

    The file holds a tensor `embedding`, or one tensor of any name, of shape [n, dim] or [1, n, dim]
    with n <= length and of any floating type. Raises WeightsError.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            name = "embedding" if "embedding" in names else names[0] if len(names) == 1 else None
            if name is None:
                message = f"{path} holds {len(names)} tensors and none is named embedding"
                raise WeightsError(message, "Keep the prompt's embedding alone in it")
            shape = file.get_slice(name).get_shape()  # told before anything is read
            rows = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape
            if len(rows) != 2 or rows[0] > length or rows[1] != dim:
                message = (
                    f"{path}: {name} is {tuple(shape)}, where the preset takes up to {length} rows "
                    f"of {dim}"
                )
                raise WeightsError(message, "Make it with the text encoder that the preset names")
            tensor = file.get_tensor(name)
    except (SafetensorError, OSError, ValueError) as error:
        reason = one_line(error) if path.exists() else "there is no such file"
        raise WeightsError(
            f"{path} cannot be read as safetensors: {reason}", "Name a file with an embedding"
        ) from None
    if not tensor.is_floating_point() or not tensor.float().isfinite().all():
        kind = (
            "values that are not finite"
            if tensor.is_floating_point()
            else f"whole numbers ({tensor.dtype})"
        )
        raise WeightsError(f"{path}: {name} holds {kind}", "Make the embedding again")
    return _padded(tensor.float().reshape(rows), length)


def _cached(path: Path, length: int, dim: int) -> Tensor | None:
    """None where there is none, or a damaged one, which is then made again."""
    try:
        return read_embedding(path, length, dim) if path.is_file() else None
    except (WeightsError, OSError):
        return None


def _store(
    path: Path, rows: Tensor, about: dict[str, str], report: Callable[[str], object]
) -> None:
    from safetensors.torch import save

    try:
        with atomic(path) as part:
            part.write_bytes(save({"embedding": rows.contiguous()}, about))
    except OutputError as error:
        report(f"The prompt's embedding is not kept: {error.message}")


def _padded(rows: Tensor, length: int) -> Tensor:
    from torch.nn.functional import pad

    return pad(rows, (0, 0, 0, length - len(rows)))


def _utf8(prompt: str) -> str:
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        message = (
            f"The prompt is not Unicode text: character {error.start} is {prompt[error.start]!r}"
        )
        raise UsageError(message, "Give it in UTF-8") from None
    return prompt
