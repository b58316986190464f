"""Text prompts: a T5 encoder makes the embeddings that a Transformer attends to, and a cache keeps them.

The encoder is larger than many machines' memory. So it is loaded once for all prompts, freed again, and never loaded
for a prompt that has been embedded before; a cached embedding can be carried to a machine that cannot hold the encoder.
"""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import os
import textwrap
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from diagd_cli.clip.write import atomic
from diagd_cli.errors import DiagdError, MissingExtra, OutputError, UsageError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor

    from diagd_cli.config import Text

CACHE_VARIABLE = "DIAGD_CACHE"
LARGEST_PROMPT = 1 << 16  # bytes of a prompt file
SIZES = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")
REST = ("relative_attention_num_buckets", "relative_attention_max_distance", "layer_norm_epsilon", "feed_forward_proj")
AWAY = "Embed the prompt on another machine and give its file with --prompt-embedding FILE"
AGAIN = "Fetch its files again, or name another text encoder in the preset"


def prompt_of(prompt: str | None, prompt_file: Path | None) -> str | None:
    """The text of a prompt, given itself or as a file: UTF-8, at most 64 KiB, stripped. None where neither is given.

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
        raise UsageError(f"The prompt file {prompt_file} cannot be read: {reason}", "Name a text file") from None
    if len(content) > LARGEST_PROMPT:
        raise UsageError(f"The prompt file {prompt_file} is larger than 64 KiB", "Name a text file with one prompt")
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        message = f"The prompt file {prompt_file} is not UTF-8 text: byte {error.start} is {content[error.start]:#04x}"
        raise UsageError(message, "Save it as UTF-8") from None


def embed_prompts(
    prompts: list[str],
    text: Text,
    dim: int,
    *,
    cache: Path | None = None,
    report: Callable[[str], object] = lambda message: None,
) -> list[Tensor]:
    """The embedding of each prompt, float32 [length, dim]: the last hidden state of the encoder, zero after its tokens.

    `text.encoder` is a Hugging Face name, which is fetched if need be, or a local folder; `cache` as in
    `embedding_path`; `report` is told what the user should know. A prompt of more than `text.length` tokens, its end
    token included, is cut. The encoder runs in float32 on the CPU: 19 GB for T5-11B. In bfloat16 it would take half
    of that, and its rounding in every layer would change the embeddings in their third digit, so it is not offered.

    Raises MissingExtra without transformers, WeightsError for an encoder that is not to be had, damaged, larger than
    the free memory, or of another hidden size than `dim`, and UsageError for a prompt that is not Unicode text.
    """
    paths = {_utf8(prompt): embedding_path(prompt, text, dim, cache) for prompt in prompts}
    found = {prompt: _cached(path, text.length, dim) for prompt, path in paths.items()}
    missing = [prompt for prompt, embedding in found.items() if embedding is None]
    if missing:
        for prompt, rows in zip(missing, _encode(missing, text, dim, report), strict=True):
            found[prompt] = _padded(rows, text.length)
            _store(paths[prompt], rows, {"prompt": prompt, "encoder": text.encoder}, report)
        gc.collect()  # the encoder is out of scope; what refers to itself in it goes too
    return [found[prompt] for prompt in prompts]


def embedding_path(prompt: str, text: Text, dim: int, cache: Path | None = None) -> Path:
    """Where a prompt's embedding is cached: in `text/` below `cache`, by default $DIAGD_CACHE or the user's cache folder.

    The file's name stands for prompt, encoder, length and dim. It holds the rows of the prompt's tokens alone, and
    `read_embedding` reads it.
    """
    if cache is None:
        folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        cache = Path(os.environ.get(CACHE_VARIABLE) or Path(folder) / "diagd")
    key = json.dumps([prompt, text.encoder, text.length, dim])
    return cache / "text" / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"


def read_embedding(path: Path, length: int, dim: int) -> Tensor:
    """An embedding from a safetensors file, float32 [length, dim], zero after its own rows.

    The file holds a tensor `embedding`, or one tensor of any name, of shape [n, dim] or [1, n, dim] with n <= length
    and of any floating type. Raises WeightsError.
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
                message = f"{path}: {name} is {tuple(shape)}, where the preset takes up to {length} rows of {dim}"
                raise WeightsError(message, "Make it with the text encoder that the preset names")
            tensor = file.get_tensor(name)
    except (SafetensorError, OSError, ValueError) as error:
        reason = _line(error) if path.exists() else "there is no such file"
        raise WeightsError(f"{path} cannot be read as safetensors: {reason}", "Name a file with an embedding") from None
    if not tensor.is_floating_point() or not tensor.float().isfinite().all():
        kind = "values that are not finite" if tensor.is_floating_point() else f"whole numbers ({tensor.dtype})"
        raise WeightsError(f"{path}: {name} holds {kind}", "Make the embedding again")
    return _padded(tensor.float().reshape(rows), length)


def _cached(path: Path, length: int, dim: int) -> Tensor | None:
    """None where there is none, or a damaged one, which is then made again."""
    try:
        return read_embedding(path, length, dim) if path.is_file() else None
    except (WeightsError, OSError):
        return None


def _store(path: Path, rows: Tensor, about: dict[str, str], report: Callable[[str], object]) -> None:
    from safetensors.torch import save

    try:
        with atomic(path) as part:
            part.write_bytes(save({"embedding": rows.contiguous()}, about))
    except OutputError as error:
        report(f"The prompt's embedding is not kept: {error.message}")


def _padded(rows: Tensor, length: int) -> Tensor:
    from torch.nn.functional import pad

    return pad(rows, (0, 0, 0, length - len(rows)))


def _encode(prompts: list[str], text: Text, dim: int, report: Callable[[str], object]) -> list[Tensor]:
    """The rows of each prompt's tokens, float32 [n, dim]. The encoder lives in this call alone."""
    try:
        import transformers
    except ImportError as error:
        raise MissingExtra("transformers", "text", "Reading a prompt") from error
    with _quiet(transformers), _legible(text.encoder):
        folder = _folder(text.encoder, "config.json", "tokenizer.json")
        config = _config(folder, text.encoder, dim)
        needed = _size(config)
        _weigh(text.encoder, needed)  # before T5-11B's 45 GB are fetched
        tokens = [_tokens(prompt, folder, text, config, report) for prompt in prompts]
        _weigh(text.encoder, max(needed, _fetch_weights(text.encoder, folder, report)))
        model = _load(transformers, folder, text.encoder, config)
        return [_rows(model, ids, text) for ids in tokens]


@contextmanager
def _quiet(transformers: ModuleType) -> Iterator[None]:
    """No bars, warnings and log lines of the libraries; their settings are put back."""
    level, own = logging.root.manager.disable, transformers.utils.logging
    bars = own.is_progress_bar_enabled()
    logging.disable(logging.ERROR)
    own.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        if bars:
            own.enable_progress_bar()


@contextmanager
def _legible(encoder: str) -> Iterator[None]:
    """Anything that the libraries raise as one line: for a damaged file they have no exception in common."""
    try:
        yield
    except DiagdError:
        raise
    except Exception as error:
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            raise WeightsError(f"The text encoder {encoder} is larger than the free memory", AWAY) from error
        raise WeightsError(f"The text encoder {encoder} cannot be loaded: {_line(error)}", AGAIN) from error


def _folder(encoder: str, *patterns: str) -> Path:
    """The encoder's folder on disk; from Hugging Face, the files that match `patterns` are fetched into its cache."""
    from huggingface_hub import errors, snapshot_download

    if Path(encoder).is_dir():
        return Path(encoder)
    try:
        return Path(snapshot_download(encoder, allow_patterns=list(patterns)))
    except errors.HFValidationError:
        raise WeightsError(f"There is no text encoder {encoder}", "Name a T5 folder or Hugging Face model") from None
    except errors.GatedRepoError:
        hint = f"Accept its licence at https://huggingface.co/{encoder} and log in with: hf auth login"
        raise WeightsError(f"The text encoder {encoder} is gated", hint) from None
    except errors.RepositoryNotFoundError:
        hint = "Check the name in the preset; for a private one log in with: hf auth login"
        raise WeightsError(f"The text encoder {encoder} is neither a folder nor on Hugging Face", hint) from None
    except errors.LocalEntryNotFoundError:
        message = f"The text encoder {encoder} is not on disk, and Hugging Face cannot be reached"
        raise WeightsError(message, f"Go online. Or: {AWAY[0].lower()}{AWAY[1:]}") from None


def _fetch_weights(encoder: str, folder: Path, report: Callable[[str], object]) -> int:
    """Have the weight files in `folder`. Returns the bytes of those that cannot be mapped, and so are read whole."""
    patterns, remote = ("model*.safetensors", "pytorch_model*.bin"), not Path(encoder).is_dir()
    if remote and not any(file for pattern in patterns for file in folder.glob(pattern)):
        report(f"Fetching the text encoder {encoder} from Hugging Face")
    for pattern in patterns:
        if remote:
            _folder(encoder, pattern, f"{pattern}.index.json")
        if files := list(folder.glob(pattern)):
            whole = [file for file in files if file.suffix == ".bin" and not zipfile.is_zipfile(file)]
            return sum(file.stat().st_size for file in whole)
    raise WeightsError(f"The text encoder {encoder} has no weights in {folder}", AGAIN)


def _config(folder: Path, encoder: str, dim: int) -> dict:
    """The sizes of a T5 encoder. Other fields are dropped: they could name quantizers, kernels or files to load."""
    found = json.loads((folder / "config.json").read_bytes())
    if found.get("model_type") != "t5":
        raise WeightsError(f"The text encoder {encoder} is no T5 but {found.get('model_type')}", "Name a T5 model")
    config = {name: found[name] for name in (*SIZES, *REST) if name in found}
    if any(type(config.get(name)) is not int or config[name] < 1 for name in SIZES):
        raise WeightsError(f"The text encoder {encoder} has no valid sizes in its config.json", AGAIN)
    if config["d_model"] != dim:
        message = (
            f"The text encoder {encoder} makes {config['d_model']} numbers a token, the preset's model takes {dim}"
        )
        raise WeightsError(message, "Name the text encoder that the model was trained with")
    return config


def _size(config: dict) -> int:
    """Bytes of the encoder in float32, but for its norms."""
    vocab, dim, head_dim, mlp_dim, layers, heads = (config[name] for name in SIZES)
    mlp = 3 if str(config.get("feed_forward_proj")).startswith("gated") else 2
    return 4 * (vocab * dim + layers * (4 * dim * heads * head_dim + mlp * dim * mlp_dim))


def _weigh(encoder: str, needed: int) -> None:
    """Raise WeightsError where less memory is free than `needed` bytes; a system that does not tell has enough."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), needed)
    if needed > free:
        message = f"The text encoder {encoder} takes {needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free"
        raise WeightsError(message, AWAY)


def _tokens(prompt: str, folder: Path, text: Text, config: dict, report: Callable[[str], object]) -> list[int]:
    """Token ids of a prompt, at most `text.length`, the end token included."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_buffer((folder / "tokenizer.json").read_bytes())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    ids = tokenizer.encode(prompt).ids
    if len(ids) > text.length:
        report(f"The prompt has {len(ids)} tokens and the text encoder reads {text.length}: the rest is left out")
        tokenizer.enable_truncation(text.length)
        ids = tokenizer.encode(prompt).ids
    if max(ids, default=0) >= config["vocab_size"]:
        message = f"The text encoder {text.encoder} has {config['vocab_size']} tokens, its tokenizer makes {max(ids)}"
        raise WeightsError(message, AGAIN)
    return ids


def _load(transformers: ModuleType, folder: Path, encoder: str, config: dict) -> Any:
    """The encoder in float32: from safetensors, or else by torch.load(weights_only=True), which transformers insists on."""
    model, info = transformers.T5EncoderModel.from_pretrained(
        folder,
        config=transformers.T5Config(**config),
        torch_dtype="float32",
        low_cpu_mem_usage=transformers.utils.is_accelerate_available(),  # always so from version 5 on
        local_files_only=True,
        output_loading_info=True,
    )
    if info["missing_keys"]:
        raise WeightsError(f"The text encoder {encoder} lacks the weights {min(info['missing_keys'])}", AGAIN)
    return model


def _rows(model: Any, ids: list[int], text: Text) -> Tensor:
    """Last hidden state [n, dim] of the n tokens `ids`, computed as the official code does: padded, under a mask."""
    import torch

    padded = torch.tensor([ids + [0] * (text.length - len(ids))])
    mask = (torch.arange(text.length) < len(ids)).long()[None]
    with torch.no_grad():
        rows = model(input_ids=padded, attention_mask=mask).last_hidden_state[0, : len(ids)].clone()
    if not rows.isfinite().all():
        raise WeightsError(f"The text encoder {text.encoder} makes values that are not finite", AGAIN)
    return rows


def _utf8(prompt: str) -> str:
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        message = f"The prompt is not Unicode text: character {error.start} is {prompt[error.start]!r}"
        raise UsageError(message, "Give it in UTF-8") from None
    return prompt


def _line(error: Exception) -> str:
    """What an exception says, on one line of bounded length."""
    return textwrap.shorten(str(error), 200, placeholder=" ...") or type(error).__name__
