"""Encoders that are missing, damaged, too large, or programs."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diagd_cli.errors import WeightsError
from text.use import PROMPT, change, embed


class TestBadEncoder:
    """Each failure is one line that names the encoder and the value seen."""

    def refused(self, encoder: Path | str, **options) -> str:
        with pytest.raises(WeightsError) as caught:
            embed(encoder, PROMPT, **options)
        assert (
            caught.value.hint
            and "\n" not in str(caught.value)
            and str(encoder) in caught.value.message
        )
        return caught.value.message

    def test_another_hidden_size(self, t5):
        assert "makes 16 numbers a token, the preset's model takes 1024" in self.refused(
            t5, dim=1024
        )

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
        for save in (
            lambda o, path: torch.save(o, path),
            lambda o, path: path.write_bytes(pickle.dumps(o)),
        ):
            save({"shared.weight": Attack()}, copy / "pytorch_model.bin")
            assert "cannot be loaded" in self.refused(copy)
        assert not (tmp_path / "owned").exists()
        pickle.loads((copy / "pytorch_model.bin").read_bytes())
        assert (tmp_path / "owned").exists()  # it was an attack
