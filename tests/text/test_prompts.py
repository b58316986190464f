"""Prompts and embeddings from files."""

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import pad

from diagd_cli.errors import UsageError, WeightsError
from diagd_cli.tokens.text import prompt_of, read_embedding
from text.use import DIM, LENGTH


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
        save_file(
            {"a": torch.zeros(1), "embedding": torch.ones(LENGTH, DIM)}, tmp_path / "e.safetensors"
        )
        assert torch.equal(
            read_embedding(tmp_path / "e.safetensors", LENGTH, DIM), torch.ones(LENGTH, DIM)
        )

    @pytest.mark.parametrize(
        ("tensors", "message"),
        [
            (
                {"embedding": torch.zeros(9, DIM)},
                r"embedding is \(9, 16\), where the preset takes "
                r"up to 8 rows of 16",
            ),
            ({"embedding": torch.zeros(3, 17)}, r"embedding is \(3, 17\)"),
            ({"embedding": torch.zeros(2, 3, DIM)}, r"embedding is \(2, 3, 16\)"),
            ({"embedding": torch.zeros(DIM)}, r"embedding is \(16,\)"),
            (
                {"a": torch.zeros(1, DIM), "b": torch.zeros(1, DIM)},
                "holds 2 tensors and none is named embedding",
            ),
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
        for path, reason in [
            (tmp_path / "text", ""),
            (tmp_path, ""),
            (tmp_path / "none", "there is no such file"),
        ]:
            with pytest.raises(
                WeightsError, match=f"{path} cannot be read as safetensors: {reason}"
            ):
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
        [
            (b"caf\xe9", "not UTF-8 text: byte 3 is 0xe9"),
            (b"a" * 65537, "larger than 64 KiB"),
            (None, "no such file"),
        ],
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
