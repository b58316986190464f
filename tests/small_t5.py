"""A random T5 of a few kilobytes with a real tokenizer, in a folder as Hugging Face has them."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = ["<pad>", "</s>", "<unk>", "a", "robot", "walks", "through", "the", "snow"]


def make_t5(folder: Path, dim: int, **more) -> Path:
    """Encoder, decoder, and a fast tokenizer that ends each prompt with </s>; `dim` numbers a
    token; `more`: other settings.
    """
    # which takes seconds to import
    from transformers import T5Config, T5ForConditionalGeneration
    from transformers.utils.logging import disable_progress_bar, enable_progress_bar

    sizes = {"vocab_size": 12, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 4}
    config = T5Config(d_model=dim, **sizes, **more)
    torch.manual_seed(0)
    disable_progress_bar()
    T5ForConditionalGeneration(config).save_pretrained(folder)
    enable_progress_bar()
    tokenizer = Tokenizer(
        models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
