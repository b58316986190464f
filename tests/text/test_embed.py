"""What the encoder makes of prompts, and the cache that saves loading it."""

import gc
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_t5 import make_t5
from tokenizers import Tokenizer
from torch import Tensor

from diagd_cli.errors import MissingExtra, UsageError
from diagd_cli.sections import Text
from diagd_cli.tokens.text import embedding_path, read_embedding
from text.use import DIM, IDS, LENGTH, PROMPT, change, embed


def by_hand(folder: Path, ids: list[int]) -> Tensor:
    """T5's encoder written out, [n, dim]: every token sees every token, there is no padding; at
    most 8 tokens.
    """
    weights = load_file(folder / "model.safetensors")

    def norm(x: Tensor, name: str) -> Tensor:
        return (
            x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weights[f"encoder.{name}.weight"]
        )

    def heads(x: Tensor, name: str) -> Tensor:
        return (x @ weights[f"{name}.weight"].T).unflatten(-1, (4, 4)).transpose(0, 1)

    place = torch.arange(len(ids))
    # from query to key; the farther one looks ahead, in buckets 16 and up
    ahead = place[None] - place[:, None]
    table = weights["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    bias = table[ahead.abs() + 16 * (ahead > 0)].permute(2, 0, 1)
    x = weights["shared.weight"][ids]
    for n in range(2):
        y, name = (
            norm(x, f"block.{n}.layer.0.layer_norm"),
            f"encoder.block.{n}.layer.0.SelfAttention",
        )
        q, k, v = (heads(y, f"{name}.{part}") for part in "qkv")
        seen = (q @ k.transpose(1, 2) + bias).softmax(-1) @ v  # T5 does not scale
        x = x + seen.transpose(0, 1).flatten(1) @ weights[f"{name}.o.weight"].T
        y, name = (
            norm(x, f"block.{n}.layer.1.layer_norm"),
            f"encoder.block.{n}.layer.1.DenseReluDense",
        )
        if f"{name}.wi.weight" in weights:
            y = (y @ weights[f"{name}.wi.weight"].T).relu()
        else:  # T5 1.1
            gate, up = (y @ weights[f"{name}.wi_{m}.weight"].T for m in range(2))
            y = torch.nn.functional.gelu(gate, approximate="tanh") * up
        x = x + y @ weights[f"{name}.wo.weight"].T
    return norm(x, "final_layer_norm")


class TestEmbed:
    def test_is_the_encoders_last_hidden_state_and_zero_after_the_end_token(self, t5):
        [embedding] = embed(t5, PROMPT)
        assert embedding.shape == (LENGTH, DIM) and embedding.dtype == torch.float32
        torch.testing.assert_close(embedding[: len(IDS)], by_hand(t5, IDS), rtol=1e-4, atol=1e-5)
        assert not embedding[len(IDS) :].any()

    def test_of_t5_1_1_as_flan_is_one(self, tmp_path):
        """Gated, and with output weights of its own."""
        kind = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
        [embedding] = embed(make_t5(tmp_path / "flan", DIM, **kind), PROMPT)
        own = by_hand(tmp_path / "flan", IDS)
        torch.testing.assert_close(embedding[: len(IDS)], own, rtol=1e-4, atol=1e-5)

    def test_does_not_depend_on_how_far_it_is_padded(self, t5):
        [short], [long] = embed(t5, PROMPT, length=8), embed(t5, PROMPT, length=12)
        torch.testing.assert_close(long[:8], short, rtol=1e-5, atol=1e-6)
        assert long.shape == (12, DIM) and not long[8:].any()

    def test_an_empty_prompt_is_its_end_token(self, t5):
        [embedding] = embed(t5, "")
        torch.testing.assert_close(embedding[:1], by_hand(t5, [1]), rtol=1e-4, atol=1e-5)
        assert not embedding[1:].any()

    def test_a_long_prompt_is_cut_before_its_end_token_and_the_user_is_told(self, t5):
        notes = []
        [embedding] = embed(t5, "a " * 20, report=notes.append)
        torch.testing.assert_close(embedding, by_hand(t5, [3] * 7 + [1]), rtol=1e-4, atol=1e-5)
        assert notes == [
            "The prompt has 21 tokens and the text encoder reads 8: the rest is left out"
        ]

    def test_the_tokenizers_own_padding_and_truncation_do_not_count(self, copy, t5):
        tokenizer = Tokenizer.from_file(str(copy / "tokenizer.json"))
        tokenizer.enable_padding(length=6)
        tokenizer.enable_truncation(2)
        tokenizer.save(str(copy / "tokenizer.json"))
        assert torch.equal(embed(copy, PROMPT)[0], embed(t5, PROMPT)[0])

    def test_two_prompts_load_the_encoder_once_and_nothing_of_it_stays(self, t5, monkeypatch):
        from transformers import T5EncoderModel  # which takes seconds to import

        loads, load = [], T5EncoderModel.from_pretrained
        monkeypatch.setattr(
            T5EncoderModel, "from_pretrained", lambda *a, **b: loads.append(a) or load(*a, **b)
        )
        one, two, again = embed(t5, PROMPT, "the snow", PROMPT)
        assert len(loads) == 1
        assert torch.equal(one, again) and not torch.equal(one, two)
        assert not [thing for thing in gc.get_objects() if type(thing) is T5EncoderModel]

    def test_is_computed_in_float32_whatever_the_file_holds(self, copy, t5):
        halved = {
            name: tensor.bfloat16() for name, tensor in load_file(t5 / "model.safetensors").items()
        }
        save_file(halved, copy / "model.safetensors", {"format": "pt"})
        change(copy / "config.json", dtype="bfloat16", torch_dtype="bfloat16")
        [embedding] = embed(copy, PROMPT)
        save_file(
            {n: t.float() for n, t in halved.items()}, copy / "model.safetensors", {"format": "pt"}
        )
        torch.testing.assert_close(embedding[: len(IDS)], by_hand(copy, IDS), rtol=1e-4, atol=1e-5)

    def test_its_configuration_gives_sizes_and_can_load_nothing_else(self, copy, t5):
        change(
            copy / "config.json",
            transformers_weights="other.bin",
            quantization_config={"quant_method": "gptq"},
        )
        assert torch.equal(embed(copy, PROMPT)[0], embed(t5, PROMPT)[0])

    @pytest.mark.parametrize("zipped", [True, False])
    def test_reads_both_of_pytorchs_formats(self, copy, t5, zipped):
        weights = load_file(copy / "model.safetensors")
        (copy / "model.safetensors").unlink()
        torch.save(weights, copy / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
        assert torch.equal(embed(copy, PROMPT)[0], embed(t5, PROMPT)[0])

    def test_is_silent(self, t5, capfd):
        embed(t5, PROMPT)
        assert capfd.readouterr() == ("", "")

    def test_a_prompt_that_is_not_unicode_is_refused(self, t5):
        with pytest.raises(UsageError, match=r"character 2 is '\\udce9'"):
            embed(t5, "a \udce9")


class TestCache:
    def test_a_cached_prompt_needs_neither_transformers_nor_the_encoder(self, copy, monkeypatch):
        first = embed(copy, PROMPT)
        shutil.rmtree(copy)
        monkeypatch.setitem(sys.modules, "transformers", None)  # importing it is now an ImportError
        assert torch.equal(embed(copy, PROMPT)[0], first[0])
        with pytest.raises(MissingExtra, match=r"needs the package transformers.*diagd\[text\]"):
            embed(copy, "another prompt")

    def test_keeps_the_rows_of_the_tokens_and_says_what_they_are(self, t5, cache):
        [embedding] = embed(t5, PROMPT)
        path = embedding_path(PROMPT, Text(encoder=str(t5), length=LENGTH), DIM)
        assert path.parent == cache / "text" and os.listdir(path.parent) == [path.name]
        with safe_open(path, "pt") as file:
            assert file.metadata() == {"prompt": PROMPT, "encoder": str(t5)}
            assert torch.equal(file.get_tensor("embedding"), embedding[: len(IDS)])
        assert torch.equal(read_embedding(path, LENGTH, DIM), embedding)

    def test_prompt_encoder_length_and_dim_each_have_a_file_of_their_own(self):
        text = Text(encoder="t5", length=8)
        others = [text.model_copy(update={"encoder": "t6"}), text.model_copy(update={"length": 9})]
        paths = {embedding_path("a", other, 16) for other in [text, *others]}
        assert len(paths | {embedding_path("b", text, 16), embedding_path("a", text, 17)}) == 5

    def test_lies_where_the_user_says(self, tmp_path, monkeypatch):
        def folder(cache: Path | None = None) -> Path:
            return embedding_path("a", Text(), 16, cache).parent

        assert folder(tmp_path / "mine") == tmp_path / "mine" / "text"
        assert folder() == tmp_path / "cache" / "text"
        monkeypatch.delenv("DIAGD_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
        assert folder() == Path("/xdg/diagd/text")
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", "/home/me")
        assert folder() == Path("/home/me/.cache/diagd/text")

    def test_a_damaged_file_is_made_again(self, t5):
        [embedding] = embed(t5, PROMPT)
        path = embedding_path(PROMPT, Text(encoder=str(t5), length=LENGTH), DIM)
        path.write_bytes(path.read_bytes()[:-1])
        assert torch.equal(embed(t5, PROMPT)[0], embedding)
        assert torch.equal(read_embedding(path, LENGTH, DIM), embedding)

    def test_a_cache_that_cannot_be_written_is_a_note(self, t5, tmp_path):
        notes, blocked = [], tmp_path / "file"
        blocked.write_text("")
        [embedding] = embed(t5, PROMPT, cache=blocked, report=notes.append)
        assert embedding.any()
        assert len(notes) == 1 and notes[0].startswith(
            f"The prompt's embedding is not kept: {blocked}"
        )


def test_importing_it_is_light():
    """The command line does so before it knows whether there is a prompt."""
    heavy = "{'torch', 'transformers', 'tokenizers', 'huggingface_hub'}"
    code = f"import sys, diagd_cli.tokens.text; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
