"""Text prompts: what the encoder makes of them, the cache that saves loading it, and files and encoders that fail."""

import gc
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_t5 import make_t5
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import pad
from transformers import T5EncoderModel

from diagd_cli.config import Text
from diagd_cli.errors import MissingExtra, UsageError, WeightsError
from diagd_cli.text import embed_prompts, embedding_path, prompt_of, read_embedding

DIM, LENGTH = 16, 8
PROMPT, IDS = "a robot walks", [3, 4, 5, 1]


@pytest.fixture(scope="session")
def t5(tmp_path_factory) -> Path:
    """A folder with a random T5 and its tokenizer."""
    return make_t5(tmp_path_factory.mktemp("t5"), DIM)


@pytest.fixture(scope="module", autouse=True)
def quick_collection(t5):
    """What is alive by now is left out of the garbage collection that follows each use of the encoder."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def copy(t5, tmp_path) -> Path:
    """The folder again, for a test to damage."""
    return Path(shutil.copytree(t5, tmp_path / "copy"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DIAGD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def embed(encoder: Path | str, *prompts: str, length: int = LENGTH, dim: int = DIM, **options) -> list[Tensor]:
    return embed_prompts(list(prompts), Text(encoder=str(encoder), length=length), dim, **options)


def change(path: Path, **values) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def by_hand(folder: Path, ids: list[int]) -> Tensor:
    """T5's encoder written out, [n, dim]: every token sees every token, there is no padding; at most 8 tokens."""
    weights = load_file(folder / "model.safetensors")

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weights[f"encoder.{name}.weight"]

    def heads(x: Tensor, name: str) -> Tensor:
        return (x @ weights[f"{name}.weight"].T).unflatten(-1, (4, 4)).transpose(0, 1)

    place = torch.arange(len(ids))
    ahead = place[None] - place[:, None]  # from query to key; the farther one looks ahead, in buckets 16 and up
    table = weights["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    bias = table[ahead.abs() + 16 * (ahead > 0)].permute(2, 0, 1)
    x = weights["shared.weight"][ids]
    for n in range(2):
        y, name = norm(x, f"block.{n}.layer.0.layer_norm"), f"encoder.block.{n}.layer.0.SelfAttention"
        q, k, v = (heads(y, f"{name}.{part}") for part in "qkv")
        seen = (q @ k.transpose(1, 2) + bias).softmax(-1) @ v  # T5 does not scale
        x = x + seen.transpose(0, 1).flatten(1) @ weights[f"{name}.o.weight"].T
        y, name = norm(x, f"block.{n}.layer.1.layer_norm"), f"encoder.block.{n}.layer.1.DenseReluDense"
        x = x + (y @ weights[f"{name}.wi.weight"].T).relu() @ weights[f"{name}.wo.weight"].T
    return norm(x, "final_layer_norm")


class TestEmbed:
    def test_is_the_encoders_last_hidden_state_and_zero_after_the_end_token(self, t5):
        [embedding] = embed(t5, PROMPT)
        assert embedding.shape == (LENGTH, DIM) and embedding.dtype == torch.float32
        torch.testing.assert_close(embedding[: len(IDS)], by_hand(t5, IDS), rtol=1e-4, atol=1e-5)
        assert not embedding[len(IDS) :].any()

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
        assert notes == ["The prompt has 21 tokens and the text encoder reads 8: the rest is left out"]

    def test_the_tokenizers_own_padding_and_truncation_do_not_count(self, copy, t5):
        tokenizer = Tokenizer.from_file(str(copy / "tokenizer.json"))
        tokenizer.enable_padding(length=6)
        tokenizer.enable_truncation(2)
        tokenizer.save(str(copy / "tokenizer.json"))
        assert torch.equal(embed(copy, PROMPT)[0], embed(t5, PROMPT)[0])

    def test_two_prompts_load_the_encoder_once_and_nothing_of_it_stays(self, t5, monkeypatch):
        loads, load = [], T5EncoderModel.from_pretrained
        monkeypatch.setattr(T5EncoderModel, "from_pretrained", lambda *a, **b: loads.append(a) or load(*a, **b))
        one, two, again = embed(t5, PROMPT, "the snow", PROMPT)
        assert len(loads) == 1
        assert torch.equal(one, again) and not torch.equal(one, two)
        assert not [thing for thing in gc.get_objects() if type(thing) is T5EncoderModel]

    def test_is_computed_in_float32_whatever_the_file_holds(self, copy, t5):
        halved = {name: tensor.bfloat16() for name, tensor in load_file(t5 / "model.safetensors").items()}
        save_file(halved, copy / "model.safetensors", {"format": "pt"})
        change(copy / "config.json", dtype="bfloat16", torch_dtype="bfloat16")
        [embedding] = embed(copy, PROMPT)
        save_file({n: t.float() for n, t in halved.items()}, copy / "model.safetensors", {"format": "pt"})
        torch.testing.assert_close(embedding[: len(IDS)], by_hand(copy, IDS), rtol=1e-4, atol=1e-5)

    def test_its_configuration_gives_sizes_and_can_load_nothing_else(self, copy, t5):
        change(copy / "config.json", transformers_weights="other.bin", quantization_config={"quant_method": "gptq"})
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
        assert len(notes) == 1 and notes[0].startswith(f"The prompt's embedding is not kept: {blocked}")


class TestBadEncoder:
    """Each failure is one line that names the encoder and the value seen."""

    def refused(self, encoder: Path | str, **options) -> str:
        with pytest.raises(WeightsError) as caught:
            embed(encoder, PROMPT, **options)
        assert caught.value.hint and "\n" not in str(caught.value) and str(encoder) in caught.value.message
        return caught.value.message

    def test_another_hidden_size(self, t5):
        assert "makes 16 numbers a token, the preset's model takes 1024" in self.refused(t5, dim=1024)

    def test_no_such_folder(self, tmp_path):
        assert "There is no text encoder" in self.refused(tmp_path / "nowhere")

    def test_another_model(self, copy):
        change(copy / "config.json", model_type="bert")
        assert "is no T5 but bert" in self.refused(copy)

    @pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
    def test_a_file_is_cut_off(self, copy, file):
        whole = (copy / file).read_bytes()
        (copy / file).write_bytes(whole[: len(whole) // 2])
        assert "cannot be loaded" in self.refused(copy)

    @pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
    def test_a_file_is_missing(self, copy, file):
        (copy / file).unlink()
        assert ("has no weights" if file == "model.safetensors" else file) in self.refused(copy)

    def test_a_weight_is_missing_and_would_be_drawn_at_random(self, copy):
        weights = load_file(copy / "model.safetensors")
        del weights["encoder.final_layer_norm.weight"]
        save_file(weights, copy / "model.safetensors", {"format": "pt"})
        assert "lacks the weights encoder.final_layer_norm.weight" in self.refused(copy)

    def test_weights_of_other_sizes(self, copy):
        change(copy / "config.json", d_ff=48)
        assert "cannot be loaded" in self.refused(copy)

    @pytest.mark.parametrize("value", [0, -1, "32", None, True])
    def test_a_size_that_is_none(self, copy, value):
        change(copy / "config.json", d_ff=value)
        assert "no valid sizes" in self.refused(copy)

    def test_values_that_are_not_finite(self, copy):
        weights = load_file(copy / "model.safetensors")
        weights["encoder.final_layer_norm.weight"][0] = float("nan")
        save_file(weights, copy / "model.safetensors", {"format": "pt"})
        assert "not finite" in self.refused(copy)

    def test_a_tokenizer_of_another_model(self, copy):
        tokens = json.loads((copy / "tokenizer.json").read_text())
        tokens["model"]["vocab"]["robot"] = 99
        change(copy / "tokenizer.json", model=tokens["model"])
        assert "has 12 tokens, its tokenizer makes 99" in self.refused(copy)

    def test_an_encoder_larger_than_the_memory_is_refused_before_it_is_read(self, copy):
        change(copy / "config.json", d_ff=1 << 40)  # 2 layers x 2 matrices x 16 x 2^40 x 4 bytes
        assert "takes 281475.0 GB of memory and" in self.refused(copy)

    def test_an_old_file_larger_than_the_memory_is_refused_since_it_would_be_read_whole(self, copy):
        (copy / "model.safetensors").unlink()
        with (copy / "pytorch_model.bin").open("wb") as file:
            file.truncate(1 << 42)  # takes no space on disk
        assert "takes 4398.0 GB of memory and" in self.refused(copy)

    def test_a_pickle_that_would_run_code_is_not_run(self, copy, tmp_path):
        class Attack:
            def __reduce__(self):
                return Path.touch, (tmp_path / "owned",)

        (copy / "model.safetensors").unlink()
        for save in (lambda o, path: torch.save(o, path), lambda o, path: path.write_bytes(pickle.dumps(o))):
            save({"shared.weight": Attack()}, copy / "pytorch_model.bin")
            assert "cannot be loaded" in self.refused(copy)
        assert not (tmp_path / "owned").exists()
        pickle.loads((copy / "pytorch_model.bin").read_bytes())
        assert (tmp_path / "owned").exists()  # it was an attack


class Hub(BaseHTTPRequestHandler):
    """What of Hugging Face's protocol a download needs, for one repository in a folder; others are gated or unknown."""

    sha = "0123456789" * 4

    def do_GET(self):
        path = self.path.split("?")[0]
        files = {file.name: file for file in self.server.folder.iterdir()}
        if not path.startswith(("/api/models/me/t5/", "/me/t5/resolve/")):
            self.answer(b"", 403 if "gated" in path else 404, "GatedRepo" if "gated" in path else "RepoNotFound")
        elif "/resolve/" in path:
            self.server.fetched.add(Path(path).name)
            self.answer(files[Path(path).name].read_bytes())
        elif "/tree/" in path:
            tree = [{"type": "file", "path": n, "size": f.stat().st_size, "oid": n} for n, f in files.items()]
            self.answer(json.dumps(tree).encode())
        else:
            about = {"id": "me/t5", "sha": self.sha, "siblings": [{"rfilename": name} for name in files]}
            self.answer(json.dumps(about).encode())

    do_HEAD = do_GET

    def answer(self, body: bytes, status: int = 200, error: str = ""):
        self.send_response(status)
        headers = {"Content-Length": len(body), "ETag": f'"{Path(self.path).name}"', "X-Repo-Commit": self.sha}
        for name, value in {**headers, **({"X-Error-Code": error} if error else {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(copy, tmp_path, monkeypatch):
    """A server in the place of Hugging Face, with the repository me/t5; `fetched`: the files that were asked for."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.folder, server.fetched = copy, set()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.01}).start()
    yield server
    server.shutdown()
    server.server_close()


class TestHub:
    def test_fetches_what_the_encoder_needs_and_tells(self, hub, t5, capfd):
        notes = []
        torch.save({}, hub.folder / "pytorch_model.bin")
        [embedding] = embed("me/t5", PROMPT, report=notes.append)
        assert torch.equal(embedding, embed(t5, PROMPT)[0])
        assert notes == ["Fetching the text encoder me/t5 from Hugging Face"]
        assert hub.fetched == {"config.json", "tokenizer.json", "model.safetensors"}
        assert capfd.readouterr() == ("", "")

    def test_fetches_pytorchs_file_where_there_is_no_other(self, hub, t5):
        torch.save(load_file(hub.folder / "model.safetensors"), hub.folder / "pytorch_model.bin")
        (hub.folder / "model.safetensors").unlink()
        assert torch.equal(embed("me/t5", PROMPT)[0], embed(t5, PROMPT)[0])

    def test_what_has_been_fetched_is_used_offline(self, hub, tmp_path, monkeypatch):
        [embedding] = embed("me/t5", PROMPT)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        hub.fetched.clear()
        notes = []
        assert torch.equal(embed("me/t5", PROMPT, cache=tmp_path / "other", report=notes.append)[0], embedding)
        assert not hub.fetched and not notes

    def test_weights_larger_than_the_memory_are_not_fetched(self, hub):
        change(hub.folder / "config.json", d_ff=1 << 40)
        with pytest.raises(WeightsError, match=r"takes 281475\.0 GB.*--prompt-embedding"):
            embed("me/t5", PROMPT)
        assert "model.safetensors" not in hub.fetched

    @pytest.mark.parametrize(
        ("name", "offline", "message", "hint"),
        [
            ("me/t5", True, "is not on disk, and Hugging Face cannot be reached", "--prompt-embedding"),
            ("me/gated", False, "is gated", "hf auth login"),
            ("me/unknown", False, "is neither a folder nor on Hugging Face", "private"),
        ],
    )
    def test_what_cannot_be_fetched_is_one_line(self, hub, monkeypatch, name, offline, message, hint):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        with pytest.raises(WeightsError) as caught:
            embed(name, PROMPT)
        assert caught.value.message == f"The text encoder {name} {message}" and hint in caught.value.hint

    def test_a_hub_that_does_not_answer_is_one_line(self, hub, monkeypatch):
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(WeightsError, match="me/t5 is not on disk, and Hugging Face cannot be reached"):
            embed("me/t5", PROMPT)


class TestReadEmbedding:
    @pytest.mark.parametrize("shape", [(3, DIM), (1, 3, DIM)])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_zeros_follow_its_rows(self, tmp_path, shape, dtype):
        rows = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
        save_file({"context": rows}, tmp_path / "e.safetensors")
        expected = pad(rows.reshape(3, DIM).float(), (0, 0, 0, LENGTH - 3))
        seen = read_embedding(tmp_path / "e.safetensors", LENGTH, DIM)
        assert seen.dtype == torch.float32 and torch.equal(seen, expected)

    def test_the_tensor_named_embedding_is_taken_among_several(self, tmp_path):
        save_file({"a": torch.zeros(1), "embedding": torch.ones(LENGTH, DIM)}, tmp_path / "e.safetensors")
        assert torch.equal(read_embedding(tmp_path / "e.safetensors", LENGTH, DIM), torch.ones(LENGTH, DIM))

    @pytest.mark.parametrize(
        ("tensors", "message"),
        [
            ({"embedding": torch.zeros(9, DIM)}, r"embedding is \(9, 16\), where the preset takes up to 8 rows of 16"),
            ({"embedding": torch.zeros(3, 17)}, r"embedding is \(3, 17\)"),
            ({"embedding": torch.zeros(2, 3, DIM)}, r"embedding is \(2, 3, 16\)"),
            ({"embedding": torch.zeros(DIM)}, r"embedding is \(16,\)"),
            ({"a": torch.zeros(1, DIM), "b": torch.zeros(1, DIM)}, "holds 2 tensors and none is named embedding"),
            ({}, "holds 0 tensors"),
            ({"embedding": torch.zeros(3, DIM, dtype=torch.int64)}, "whole numbers"),
            ({"embedding": torch.full((3, DIM), float("nan"))}, "not finite"),
        ],
    )
    def test_another_tensor_is_refused(self, tmp_path, tensors, message):
        save_file(tensors, tmp_path / "e.safetensors")
        with pytest.raises(WeightsError, match=message):
            read_embedding(tmp_path / "e.safetensors", LENGTH, DIM)

    def test_another_file_is_refused(self, tmp_path):
        (tmp_path / "text").write_text("a robot walks")
        for path, reason in [(tmp_path / "text", ""), (tmp_path, ""), (tmp_path / "none", "there is no such file")]:
            with pytest.raises(WeightsError, match=f"{path} cannot be read as safetensors: {reason}"):
                read_embedding(path, LENGTH, DIM)


class TestPromptOf:
    def test_is_what_is_given(self):
        assert prompt_of("a robot", None) == "a robot"
        assert prompt_of("", None) == ""
        assert prompt_of(None, None) is None

    def test_a_file_is_utf8_and_stripped(self, tmp_path):
        (tmp_path / "p.txt").write_bytes("\ufeff  ein Roboter läuft\r\n\n".encode())
        assert prompt_of(None, tmp_path / "p.txt") == "ein Roboter läuft"

    @pytest.mark.parametrize(
        ("content", "message"),
        [(b"caf\xe9", "not UTF-8 text: byte 3 is 0xe9"), (b"a" * 65537, "larger than 64 KiB"), (None, "no such file")],
    )
    def test_another_file_is_refused(self, tmp_path, content, message):
        if content is not None:
            (tmp_path / "p.txt").write_bytes(content)
        with pytest.raises(UsageError, match=message):
            prompt_of(None, tmp_path / "p.txt")

    def test_64_kib_are_allowed(self, tmp_path):
        (tmp_path / "p.txt").write_bytes(b"a" * 65536)
        assert prompt_of(None, tmp_path / "p.txt") == "a" * 65536

    def test_a_folder_and_two_prompts_are_refused(self, tmp_path):
        with pytest.raises(UsageError, match="is a directory"):
            prompt_of(None, tmp_path)
        with pytest.raises(UsageError, match="both given"):
            prompt_of("a", tmp_path / "p.txt")
        with pytest.raises(UsageError, match="not Unicode text"):
            prompt_of("caf\udce9", None)


def test_importing_it_is_light():
    """The command line does so before it knows whether there is a prompt."""
    heavy = "{'torch', 'transformers', 'tokenizers', 'huggingface_hub'}"
    code = f"import sys, diagd_cli.text; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
