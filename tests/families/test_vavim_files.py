"""VaViM's and LlamaGen's files in every form, and what is said of files that are not the preset's."""

import os

import pytest
import torch
from families.vavim_golden import facts, golden, vavim_config, vq, vq_config, weights_of
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from vavim_checkpoint import NETWORK, save_checkpoint

from diagd_cli.checkpoints.match import flat
from diagd_cli.errors import WeightsError
from diagd_cli.families.vavim.checkpoint import OFFICIAL, transformer_layout, transformer_tensors
from diagd_cli.families.vavim.codec_files import tokenizer_layout, tokenizer_tensors
from diagd_cli.families.vavim.config import LlamaGenVqConfig
from diagd_cli.families.vavim.tokenizer import LlamaGenVqTokenizer
from diagd_cli.preset_files import load_preset
from diagd_cli.weights.build import build_transformer
from diagd_cli.weights.parameters import tokenizer_parameters, transformer_parameters

SAFE, WINDOW = weights_of("tiny"), 5
CONFIG = vavim_config(facts("tiny")["network"], facts("tiny")["width_mult"])
POSITIONS = WINDOW * 24 + 1
HEAD = "network.lm_head.weight"
FULL = facts("full_size_shapes")["models"]


def config(**changes):
    return CONFIG.model_copy(update=changes)


def same(entries, module) -> bool:
    ours = {name: torch.cat(parts).float() for name, parts in entries}
    theirs = dict(module.named_parameters())
    return ours.keys() == theirs.keys() and all(ours[n].equal(p) for n, p in theirs.items())


def edited(tmp_path, **changes):
    """The tiny file with tensors replaced, or left out where None. `__` stands for a dot."""
    tensors = load_file(SAFE) | {n.replace("__", "."): tensor for n, tensor in changes.items()}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, tmp_path / "edited.safetensors")
    return tmp_path / "edited.safetensors"


# ---- the Transformer -----------------------------------------------------------------------------


def test_a_checkpoint_of_lightning_and_safetensors_give_every_parameter(tmp_path):
    path = save_checkpoint(tmp_path / "vavim.pt")
    for file in (path, SAFE):
        assert same(transformer_tensors(file, CONFIG, POSITIONS), golden("tiny").model)


def test_a_window_shorter_than_the_file_s_and_one_that_is_longer():
    entries = dict(transformer_tensors(SAFE, CONFIG, 3 * 24 + 1))
    assert len(entries["learned.frames.weight"][0]) == 3
    message = r"has 5 frames, the preset's window 6\. Lower clip\.window"
    with pytest.raises(WeightsError, match=message):
        transformer_tensors(SAFE, CONFIG, 6 * 24 + 1)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"head_dim": 32, "heads": 2, "kv_heads": 2}, "head_dim is 16 in the file, 32 in the pre"),
        ({"attention_scale": 0.25}, r"attention_scale is 0\.0625 in the file, 0\.25 in"),
        ({"logit_scale": 1.0}, r"logit_scale is 4\.0 in the file, 1\.0 in the preset"),
    ],
)
def test_what_only_the_settings_of_a_checkpoint_tell(tmp_path, change, message):
    """No shape tells how wide a head is, nor what muP scales by; safetensors rely on the preset."""
    with pytest.raises(WeightsError, match=message):
        path = save_checkpoint(tmp_path / "vavim.pt")
        transformer_tensors(path, config(**change), POSITIONS)
    assert dict(transformer_tensors(SAFE, config(**change), POSITIONS))


def test_scales_of_a_checkpoint_that_are_not_the_usual(tmp_path):
    """By its base width and its own scales; a preset may have rounded the quotient."""
    network = NETWORK | {"attn_scale": 2.0, "output_scale": 1.5}
    path = save_checkpoint(tmp_path / "vavim.pt", base=144, network=network)
    scaled = config(attention_scale=0.125, logit_scale=3.375 + 1e-9)
    assert dict(transformer_tensors(path, scaled, POSITIONS))
    with pytest.raises(WeightsError, match=r"attention_scale is 0\.125 .*; logit_scale is 3\.375"):
        transformer_tensors(path, CONFIG, POSITIONS)


@pytest.mark.parametrize("network", [{}, {"embedding_dim": "wide", "dim_heads": 0}, {"odd": True}])
def test_settings_of_another_form_say_nothing(tmp_path, network):
    path = save_checkpoint(tmp_path / "vavim.pt", network=network, mup_base_shapes=[3])
    assert dict(transformer_tensors(path, config(logit_scale=7.0), POSITIONS))
    path = save_checkpoint(tmp_path / "vavim.pt", hyper_parameters=5)
    assert dict(transformer_tensors(path, config(logit_scale=7.0), POSITIONS))


@pytest.mark.parametrize("size", FULL)
def test_names_shapes_and_counts_of_the_official_sizes_are_the_presets(size, tmp_path):
    told, preset = FULL[size], load_preset(f"vavim-{size.lower()}")
    layers = range(told["nb_layers"])
    theirs = {
        name.replace("{i}", str(i)): tuple(shape)
        for name, shape in told["shapes"].items()
        for i in layers
    }
    assert flat(transformer_layout(preset.transformer, told["nb_timesteps"])) == theirs
    assert len(theirs) == told["tensors_in_state_dict"]
    assert vavim_config(told, told["width_mult"]) == preset.transformer
    model = build_transformer(preset, "meta")
    assert sum(p.numel() for p in model.parameters()) == told["parameters"]
    assert transformer_parameters(preset.transformer, preset.positions) == told["parameters"]
    # one number, seen everywhere: a file of full size that takes no space
    state = {name: torch.zeros(()).expand(shape) for name, shape in theirs.items()}
    network = {**NETWORK, "embedding_dim": told["embedding_dim"], "dim_heads": told["dim_heads"]}
    path = save_checkpoint(tmp_path / "vavim.pt", state, network=network)
    transformer_tensors(path, preset.transformer, preset.positions)
    other = load_preset("vavim-b" if size == "S" else "vavim-s").transformer
    with pytest.raises(WeightsError, match=f"It fits the preset {preset.name}$"):
        transformer_tensors(path, other, preset.positions)
    assert set(OFFICIAL) == {f"vavim-{size.lower()}" for size in FULL}


@pytest.mark.parametrize(
    "change, message",
    [
        ({HEAD: None}, "lacks network.lm_head.weight"),
        ({"network__transformer__wse__weight": None}, "lacks the matrix .*wse.weight. It is no Va"),
        ({"network__transformer__wte__weight": torch.ones(5)}, "lacks the matrix .*wte.weight"),
        ({"surprise": torch.ones(2)}, "holds surprise, which the preset's model has not"),
        ({"vam__gpt__x": torch.ones(2)}, "holds VaVAM, a model of actions. Give the file of VaViM"),
        ({HEAD: torch.ones(129, 64)}, "its output layer is not the embedding"),
        (
            {"network__transformer__h__1__mlp__c_fc__weight": torch.ones(7, 64)},
            r"is \(7, 64\), the",
        ),
        (
            {"network__transformer__wse__weight": torch.ones(20, 64)},
            r"positions\.places is 20 in the file, 24 in the preset",
        ),
    ],
)
def test_files_that_do_not_fit(tmp_path, change, message):
    with pytest.raises(WeightsError, match=message):
        list(transformer_tensors(edited(tmp_path, **change), CONFIG, POSITIONS))


@pytest.mark.parametrize(
    "change", [{"activation": "gelu-tanh"}, {"tied": False}, {"final_norm_affine": True}]
)
def test_a_transformer_that_no_file_can_fill(change):
    (name,) = change
    with pytest.raises(WeightsError, match=rf"No VaViM file fits transformer\.{name}"):
        transformer_tensors(SAFE, config(**change), POSITIONS)


class Hostile:
    """Its pickle would make a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_nothing_in_a_file_runs(tmp_path):
    path = save_checkpoint(tmp_path / "vavim.pt", hook=Hostile(tmp_path / "made"))
    with pytest.raises(WeightsError, match=r"is refused: it refers to posix\.mkdir"):
        transformer_tensors(path, CONFIG, POSITIONS)
    torch.save({"model": codec(), "hook": Hostile(tmp_path / "made")}, path)
    with pytest.raises(WeightsError, match=r"is refused: it refers to posix\.mkdir"):
        tokenizer_tensors([path], vq_config())
    assert not (tmp_path / "made").exists()


# ---- the tokenizer -------------------------------------------------------------------------------


def codec() -> dict[str, Tensor]:
    """The tiny tokenizer's file, with the statistic that the official one holds."""
    tensors = load_file(weights_of("vq16_tiny"))
    return tensors | {"quantize.codebook_used": torch.zeros(65536)}


def script(path, named: dict[str, Tensor]) -> None:
    """A TorchScript archive of modules that hold these tensors."""
    root = nn.Module()
    for name, tensor in named.items():
        *places, last = name.split(".")
        module = root
        for place in places:
            if not hasattr(module, place):
                module.add_module(place, nn.Module())
            module = getattr(module, place)
        module.register_buffer(last, tensor)
    torch.jit.script(root).save(str(path))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_every_form_of_the_tokenizer_s_file(tmp_path):
    """One file of both halves, or an archive of each, which may have anything before the names."""
    torch.save({"model": codec(), "steps": 5}, tmp_path / "whole.pt")
    for file in (tmp_path / "whole.pt", weights_of("vq16_tiny")):
        assert same(tokenizer_tensors([file], vq_config()), vq()[0])
    tiny = LlamaGenVqConfig(codebook=7, channels=32, multipliers=(1, 1), blocks=1, latent=4)
    model = LlamaGenVqTokenizer(tiny)
    halves = [tmp_path / "encoder.jit", tmp_path / "decoder.jit"]
    for path, own in zip(halves, (("enc", "quant"), ("dec", "post_", "quantize")), strict=True):
        part = {name: t for name, t in model.state_dict().items() if name.startswith(own)}
        script(path, {f"vq_model.{name}": tensor for name, tensor in part.items()})
    assert same(tokenizer_tensors(halves, tiny), model)
    with pytest.raises(WeightsError, match=r"encoder\.jit lacks decoder\.conv_blocks"):
        tokenizer_tensors(halves[:1], tiny)


def test_halves_of_two_tokenizers(tmp_path):
    other = codec()
    other["quantize.embedding.weight"] = other["quantize.embedding.weight"] + 1
    save_file(codec(), tmp_path / "a.safetensors")
    save_file(other, tmp_path / "b.safetensors")
    with pytest.raises(WeightsError, match=r"have different codes\. Give two files of one"):
        tokenizer_tensors([tmp_path / "a.safetensors", tmp_path / "b.safetensors"], vq_config())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"codebook": 128}, "codebook is 256 in the file, 128 in the preset. Correct them under"),
        ({"blocks": 1, "latent": 8}, "blocks is 2 in the file, 1 .*; latent is 16 in the file, 8"),
        ({"multipliers": (1, 1, 1, 1, 1)}, r"multipliers is \(1, 1, 2, 1, 1\) in the file"),
    ],
)
def test_a_tokenizer_of_other_sizes(change, message):
    with pytest.raises(WeightsError, match=message):
        tokenizer_tensors([weights_of("vq16_tiny")], vq_config().model_copy(update=change))
    with pytest.raises(
        WeightsError, match=r"lacks decoder\.conv_blocks.* It is no tokenizer of Ll"
    ):
        tokenizer_tensors([SAFE], vq_config())


def test_the_official_tokenizer_is_the_default_and_known(tmp_path):
    told = facts("vq16_full_size_shapes")["VQ-16"]
    theirs = {name: tuple(shape) for name, shape in told["shapes"].items()}
    theirs.pop("quantize.codebook_used")
    assert flat(tokenizer_layout(LlamaGenVqConfig())) == theirs
    assert tokenizer_parameters(LlamaGenVqConfig()) == told["parameters"] == 71_883_403
    assert (LlamaGenVqConfig().spatial, LlamaGenVqConfig().temporal) == (16, 1)
    state = {name: torch.zeros(()).expand(shape) for name, shape in theirs.items()}
    torch.save({"model": state}, tmp_path / "vq.pt")
    with pytest.raises(WeightsError, match=r"It is VQ-16: use multipliers \[1, 1, 2, 2, 4\]"):
        tokenizer_tensors([tmp_path / "vq.pt"], LlamaGenVqConfig(multipliers=(1, 2, 2, 4)))
    tokenizer_tensors([tmp_path / "vq.pt"], load_preset("vavim-s").tokenizer)
