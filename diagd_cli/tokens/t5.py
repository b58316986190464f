"""The T5 encoder that reads prompts, through transformers: found or fetched, checked, weighed, run,
and gone again.

Its files come from strangers: nothing in them is run, and of its configuration only the sizes
count.
"""

from __future__ import annotations

import json
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from diagd_cli.errors import DiagdError, MissingExtra, WeightsError, one_line
from diagd_cli.free_memory import free_main_memory

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

    from diagd_cli.sections import Text

SIZES = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")
REST = (
    "relative_attention_num_buckets",
    "relative_attention_max_distance",
    "layer_norm_epsilon",
    "feed_forward_proj",
)
AWAY = "Embed the prompt on another machine and give its file with --prompt-embedding FILE"
AGAIN = "Fetch its files again, or name another text encoder in the preset"


def encode(
    prompts: list[str], text: Text, dim: int, report: Callable[[str], object]
) -> list[Tensor]:
    """The rows of each prompt's tokens, float32 [n, dim]. The encoder lives in this call alone."""
    try:
        import transformers
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingExtra("transformers", "text", "Reading a prompt") from error
    with _quiet(transformers), _legible(text.encoder):
        folder = _folder(text.encoder, "config.json", "tokenizer.json")
        config = _config(folder, text.encoder, dim)
        needed = _size(config)
        _weigh(text.encoder, needed)  # before T5-11B's 45 GB are fetched
        tokenizer = Tokenizer.from_buffer((folder / "tokenizer.json").read_bytes())
        tokens = [_tokens(prompt, tokenizer, text, config, report) for prompt in prompts]
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
    """Anything that the libraries raise as one line: for a damaged file they have no exception in
    common.
    """
    try:
        yield
    except DiagdError:
        raise
    except Exception as error:
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            raise WeightsError(
                f"The text encoder {encoder} is larger than the free memory", AWAY
            ) from error
        raise WeightsError(
            f"The text encoder {encoder} cannot be loaded: {one_line(error)}", AGAIN
        ) from error


def _folder(encoder: str, *patterns: str) -> Path:
    """The encoder's folder on disk; from Hugging Face, the files that match `patterns` are fetched
    into its cache.
    """
    from huggingface_hub import errors, snapshot_download

    if Path(encoder).is_dir():
        return Path(encoder)
    try:
        return Path(snapshot_download(encoder, allow_patterns=list(patterns)))
    except errors.HFValidationError:
        raise WeightsError(
            f"There is no text encoder {encoder}", "Name a T5 folder or Hugging Face model"
        ) from None
    except errors.GatedRepoError:
        hint = (
            f"Accept its licence at https://huggingface.co/{encoder} and log in with: hf auth login"
        )
        raise WeightsError(f"The text encoder {encoder} is gated", hint) from None
    except errors.RepositoryNotFoundError:
        hint = "Check the name in the preset; for a private one log in with: hf auth login"
        raise WeightsError(
            f"The text encoder {encoder} is neither a folder nor on Hugging Face", hint
        ) from None
    except errors.LocalEntryNotFoundError:
        message = f"The text encoder {encoder} is not on disk, and Hugging Face cannot be reached"
        raise WeightsError(message, f"Go online. Or: {AWAY[0].lower()}{AWAY[1:]}") from None


def _fetch_weights(encoder: str, folder: Path, report: Callable[[str], object]) -> int:
    """Have the weight files in `folder`. Returns the bytes of those that cannot be mapped, and so
    are read whole.
    """
    patterns, remote = ("model*.safetensors", "pytorch_model*.bin"), not Path(encoder).is_dir()
    if remote and not any(file for pattern in patterns for file in folder.glob(pattern)):
        report(f"Fetching the text encoder {encoder} from Hugging Face")
    for pattern in patterns:
        if remote:
            _folder(encoder, pattern, f"{pattern}.index.json")
        if files := list(folder.glob(pattern)):
            whole = [
                file for file in files if file.suffix == ".bin" and not zipfile.is_zipfile(file)
            ]
            return sum(file.stat().st_size for file in whole)
    raise WeightsError(f"The text encoder {encoder} has no weights in {folder}", AGAIN)


def _config(folder: Path, encoder: str, dim: int) -> dict:
    """The sizes of a T5 encoder. Other fields are dropped: they could name quantizers, kernels or
    files to load.
    """
    found = json.loads((folder / "config.json").read_bytes())
    if found.get("model_type") != "t5":
        raise WeightsError(
            f"The text encoder {encoder} is no T5 but {found.get('model_type')}", "Name a T5 model"
        )
    config = {name: found[name] for name in (*SIZES, *REST) if name in found}
    if any(type(config.get(name)) is not int or config[name] < 1 for name in SIZES):
        raise WeightsError(
            f"The text encoder {encoder} has no valid sizes in its config.json", AGAIN
        )
    if config["d_model"] != dim:
        message = (
            f"The text encoder {encoder} makes {config['d_model']} numbers a token, the preset's "
            f"model takes {dim}"
        )
        raise WeightsError(message, "Name the text encoder that the model was trained with")
    return config


def _size(config: dict) -> int:
    """Bytes of the encoder in float32, but for its norms."""
    vocab, dim, head_dim, mlp_dim, layers, heads = (config[name] for name in SIZES)
    mlp = 3 if str(config.get("feed_forward_proj")).startswith("gated") else 2
    return 4 * (vocab * dim + layers * (4 * dim * heads * head_dim + mlp * dim * mlp_dim))


def _weigh(encoder: str, needed: int) -> None:
    """Raise WeightsError where less memory is free than `needed` bytes; a system that does not tell
    has enough.
    """
    free = free_main_memory()
    if free is not None and needed > free:
        message = (
            f"The text encoder {encoder} takes {needed / 1e9:.1f} GB of memory and "
            f"{free / 1e9:.1f} GB are free"
        )
        raise WeightsError(message, AWAY)


def _tokens(
    prompt: str, tokenizer: Tokenizer, text: Text, config: dict, report: Callable[[str], object]
) -> list[int]:
    """Token ids of a prompt, at most `text.length`, the end token included."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    ids = tokenizer.encode(prompt).ids
    if len(ids) > text.length:
        report(
            f"The prompt has {len(ids)} tokens and the text encoder reads {text.length}: the "
            "rest is left out"
        )
        tokenizer.enable_truncation(text.length)
        ids = tokenizer.encode(prompt).ids
    if max(ids, default=0) >= config["vocab_size"]:
        message = (
            f"The text encoder {text.encoder} has {config['vocab_size']} tokens, its tokenizer "
            f"makes {max(ids)}"
        )
        raise WeightsError(message, AGAIN)
    return ids


def _load(transformers: ModuleType, folder: Path, encoder: str, config: dict) -> Any:
    """The encoder in float32: from safetensors, or else by torch.load(weights_only=True), which
    transformers insists on.
    """
    model, info = transformers.T5EncoderModel.from_pretrained(
        folder,
        config=transformers.T5Config(**config),
        torch_dtype="float32",
        # always so from version 5 on
        low_cpu_mem_usage=transformers.utils.is_accelerate_available(),
        local_files_only=True,
        output_loading_info=True,
    )
    if info["missing_keys"]:
        raise WeightsError(
            f"The text encoder {encoder} lacks the weights {min(info['missing_keys'])}", AGAIN
        )
    return model


def _rows(model: Any, ids: list[int], text: Text) -> Tensor:
    """Last hidden state [n, dim] of the n tokens `ids`, computed as the official code does: padded,
    under a mask.
    """
    import torch

    padded = torch.tensor([ids + [0] * (text.length - len(ids))])
    mask = (torch.arange(text.length) < len(ids)).long()[None]
    with torch.no_grad():
        rows = model(input_ids=padded, attention_mask=mask).last_hidden_state[0, : len(ids)].clone()
    if not rows.isfinite().all():
        raise WeightsError(
            f"The text encoder {text.encoder} makes values that are not finite", AGAIN
        )
    return rows
