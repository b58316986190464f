"""WHAM's files in both formats, and what is said of files that are not the preset's."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from wham_checkpoint import GOLDEN, IMAGE_SPEC, save_checkpoint

import diagd_cli.families.wham.checkpoint as wham
from diagd_cli.checkpoints.match import flat
from diagd_cli.checkpoints.torchzip import TorchArchive
from diagd_cli.errors import WeightsError
from diagd_cli.families.wham.checkpoint import tokenizer_tensors, transformer_tensors
from diagd_cli.families.wham.config import VitVqConfig
from diagd_cli.families.wham.lightning import hyper_parameters
from diagd_cli.families.wham.tokenizer import VitVqTokenizer
from diagd_cli.model.config import Positions, TransformerConfig
from diagd_cli.model.transformer import Transformer

SAFE = GOLDEN / "tiny_v1_weights.safetensors"
GPT = "predictor.gpt_model.transformer"
POSITIONS = 124


def transformer(**changes) -> TransformerConfig:
    """The tiny version-1 model."""
    tiny = {
        "vocab": 100,
        "dim": 48,
        "layers": 3,
        "heads": 4,
        "kv_heads": 4,
        "head_dim": 12,
        "mlp_dim": 192,
    }
    form = {"activation": "gelu-tanh", "norm": "layer", "bias": True, "tied": True}
    return TransformerConfig(**{**tiny, **form, "positions": Positions(kind="learned"), **changes})


def tokenizer(**changes) -> VitVqConfig:
    tiny = {
        "height": 30,
        "width": 50,
        "dim": 32,
        "layers": 2,
        "head_size": 8,
        "code_dim": 8,
        "codebook": 32,
    }
    return VitVqConfig(**{**tiny, **changes})


def official(name: str) -> TransformerConfig:
    values = wham.OFFICIAL[name]
    heads = values["heads"]
    return transformer(**values, kv_heads=heads, head_dim=values["dim"] // heads)


def edited(tmp_path, **changes):
    """The tiny file with tensors replaced, or left out where None. `__` stands for a dot."""
    tensors = load_file(SAFE)
    for name, tensor in changes.items():
        key = name.replace("__", ".")
        tensors.pop(key, None)
        if tensor is not None:
            tensors[key] = tensor
    save_file(tensors, tmp_path / "edited.safetensors")
    return tmp_path / "edited.safetensors"


def shapes_only(path, *layouts, **options):
    """A .ckpt with tensors of the true shapes that take no room. options: of `save_checkpoint`."""
    shapes = {key: shape for layout in layouts for key, shape in flat(layout).items()}
    state = {key: torch.zeros(1).expand(shape) for key, shape in shapes.items()}
    return save_checkpoint(path, state_dict=state, **options)


# hyper-parameters that say nothing of sizes
UNSAID = {"image_spec": {"odd": 1}, "predictor_spec": {"odd": 1}}


# ---- both formats --------------------------------------------------------------------------------


def test_a_checkpoint_gives_what_safetensors_give(tmp_path):
    path = save_checkpoint(tmp_path / "wham.ckpt")
    for read, config in ((transformer_tensors, transformer()), (tokenizer_tensors, tokenizer())):
        theirs = {name: torch.cat(parts) for name, parts in read(SAFE, config)}
        ours = {name: torch.cat(parts) for name, parts in read(path, config)}
        assert ours.keys() == theirs.keys() and all(
            torch.equal(ours[name], theirs[name]) for name in ours
        )


def test_every_parameter_once_in_its_shape():
    models = (
        (
            Transformer(transformer(), torch.zeros(POSITIONS, 3)),
            transformer_tensors(SAFE, transformer()),
        ),
        (VitVqTokenizer(tokenizer()), tokenizer_tensors(SAFE, tokenizer())),
    )
    for model, entries in models:
        given = [(name, torch.cat(parts).shape) for name, parts in entries]
        assert sorted(given) == sorted((name, p.shape) for name, p in model.named_parameters())


def test_only_the_weights_asked_for_are_read(tmp_path, monkeypatch):
    path, read, tensor = save_checkpoint(tmp_path / "wham.ckpt"), [], TorchArchive.tensor
    monkeypatch.setattr(
        TorchArchive, "tensor", lambda self, stored: (read.append(stored), tensor(self, stored))[1]
    )
    entries = tokenizer_tensors(path, tokenizer())
    assert not read
    names = [name for name, _ in entries]
    assert len(read) == len(names)


def test_an_output_layer_of_its_own():
    entries = dict(transformer_tensors(SAFE, transformer(tied=False, outputs=32)))
    theirs = load_file(SAFE)["predictor.gpt_model.lm_head.weight"]
    assert torch.equal(entries["head.weight"][0], theirs[:32])


@pytest.mark.parametrize("rows", [60, POSITIONS, POSITIONS + 1])
def test_a_shorter_window_and_a_scratch_position(rows):
    learned = torch.cat(dict(transformer_tensors(SAFE, transformer(), rows))["learned.weight"])
    theirs = load_file(SAFE)[f"{GPT}.wpe.weight"][:rows]
    assert len(learned) == rows
    assert torch.equal(learned[: len(theirs)], theirs) and not learned[len(theirs) :].any()


def test_what_a_checkpoint_says_of_itself(tmp_path):
    said = hyper_parameters(save_checkpoint(tmp_path / "wham.ckpt"))
    assert said["predictor"] == {
        "model_size": "tiny",
        "seq_len": 4,
        "nanogpt_version": 1,
        "bias": True,
    }
    assert (
        said["images"] == {k: v for k, v in IMAGE_SPEC.items() if k in said["images"]}
        and len(said["images"]) == 8
    )
    assert hyper_parameters(SAFE) == {}


def test_what_a_checkpoint_leaves_out_has_its_default(tmp_path):
    path = save_checkpoint(
        tmp_path / "wham.ckpt", predictor_spec={"model_size": "wham-3b", "odd": object}
    )
    assert hyper_parameters(path)["predictor"] == {
        "model_size": "wham-3b",
        "nanogpt_version": 1,
        "bias": True,
    }


@pytest.mark.parametrize(
    "hyper", [None, 5, {"predictor_args": []}, {"context_encoder_args": {"images": 3}}]
)
def test_hyper_parameters_of_another_form_say_nothing(tmp_path, hyper):
    assert hyper_parameters(save_checkpoint(tmp_path / "wham.ckpt", hyper_parameters=hyper)) == {}


# ---- another model -------------------------------------------------------------------------------


def test_the_official_file_of_the_other_size(tmp_path):
    path = shapes_only(
        tmp_path / "big.ckpt", wham.transformer_layout(official("wham-1.6b"), 5560), **UNSAID
    )
    with pytest.raises(WeightsError) as caught:
        transformer_tensors(path, official("wham-200m"))
    assert caught.value.hint == "It fits the preset wham-1.6b"
    assert (
        "dim is 2304 in the file, 1024 in the preset; layers is 24 in the file, 16"
        in caught.value.message
    )


@pytest.mark.parametrize("name", wham.OFFICIAL)
def test_the_official_presets_fit_their_files(tmp_path, name):
    layouts = wham.transformer_layout(official(name), 5560), wham.tokenizer_layout(VitVqConfig())
    path = shapes_only(tmp_path / "x.ckpt", *layouts, **UNSAID)
    transformer_tensors(path, official(name), 5561)
    tokenizer_tensors(path, VitVqConfig())


def test_heads_show_in_the_hyper_parameters_alone(tmp_path):
    big = official("wham-1.6b")
    layouts = wham.transformer_layout(big, 5560), wham.tokenizer_layout(VitVqConfig())
    said = {"predictor_spec": {"model_size": "wham-4kvocab-1.6b"}, "image_spec": {"head_size": 128}}
    path = shapes_only(tmp_path / "x.ckpt", *layouts, **said)
    with pytest.raises(
        WeightsError,
        match=r"heads is 18 in the file, 36 in the preset\. It fits the preset wham-1.6b",
    ):
        transformer_tensors(
            path, big.model_copy(update={"heads": 36, "kv_heads": 36, "head_dim": 64})
        )
    message = (
        r"another tokenizer than the preset's: head_size is 128 in the file, 64 in the preset\. "
        r"Correct them under"
    )
    with pytest.raises(WeightsError, match=message):
        tokenizer_tensors(path, VitVqConfig())
    transformer_tensors(path, big)
    tokenizer_tensors(path, VitVqConfig(head_size=128))


def test_safetensors_rely_on_the_preset_for_heads(tmp_path):
    """No shape tells how wide a head is; the .ckpt does."""
    assert dict(tokenizer_tensors(SAFE, tokenizer(head_size=16)))
    with pytest.raises(WeightsError, match="head_size is 8 in the file, 16 in the preset"):
        tokenizer_tensors(save_checkpoint(tmp_path / "wham.ckpt"), tokenizer(head_size=16))


@pytest.mark.parametrize(
    "change",
    [{"block_norm_affine": False}, {"bias": False}, {"vocab": 99}, {"mlp_dim": 96}, {"layers": 2}],
)
def test_a_transformer_of_other_sizes(change):
    (name,) = change
    with pytest.raises(
        WeightsError, match=f"another transformer .*: {name} .*Correct them under transformer"
    ):
        transformer_tensors(SAFE, transformer(**change))


@pytest.mark.parametrize(
    "change",
    [
        {"activation": "swiglu"},
        {"norm": "rms"},
        {"norm_eps": 1e-6},
        {"qk_norm": True},
        {"cross_dim": 8},
    ],
)
def test_a_transformer_that_no_wham_file_can_fill(change):
    (name,) = change
    with pytest.raises(WeightsError, match=rf"No WHAM file fits transformer\.{name}"):
        transformer_tensors(SAFE, transformer(**change))
    with pytest.raises(WeightsError, match=r"transformer\.positions"):
        transformer_tensors(SAFE, transformer(positions=Positions()))


@pytest.mark.parametrize(
    "change",
    [{"dim": 64}, {"layers": 1}, {"code_dim": 4}, {"codebook": 64}, {"patch": 5}, {"height": 40}],
)
def test_a_tokenizer_of_other_sizes(change):
    (name,) = change
    shown = {"height": "tokens", "patch": "patch"}.get(name, name)
    with pytest.raises(
        WeightsError, match=f"another tokenizer .*{shown} is .*Correct them under tokenizer"
    ):
        tokenizer_tensors(SAFE, tokenizer(**change))


def test_a_window_that_the_file_does_not_reach():
    with pytest.raises(
        WeightsError, match=r"has 124 positions, the preset needs 130\. Lower clip\.window"
    ):
        transformer_tensors(SAFE, transformer(), 131)


# ---- an incomplete or odd file -------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        f"{GPT}.wte.weight",
        f"{GPT}.wpe.weight",
        f"{GPT}.h.1.mlp.c_fc.bias",
        f"{GPT}.h.0.ln_2.weight",
        f"{GPT}.ln_f.bias",
    ],
)
def test_a_missing_key_is_named(tmp_path, key):
    with pytest.raises(WeightsError, match=f"lacks.* {key}"):
        transformer_tensors(edited(tmp_path, **{key.replace(".", "__"): None}), transformer())


def test_an_unknown_key_is_named(tmp_path):
    path = edited(tmp_path, predictor__gpt_model__transformer__extra=torch.zeros(2))
    with pytest.raises(
        WeightsError, match=r"holds predictor\.gpt_model\.transformer\.extra, which"
    ):
        transformer_tensors(path, transformer())
    tokenizer_tensors(path, tokenizer())
    for read, config in ((transformer_tensors, transformer()), (tokenizer_tensors, tokenizer())):
        with pytest.raises(WeightsError, match="holds surprise, which the preset's model has not"):
            read(edited(tmp_path, surprise=torch.zeros(2)), config)


def test_what_training_alone_needs_is_left_aside(tmp_path):
    names = ("patch_gan__x", "target_patchgan__y__z", "lpips_model__net")
    path = edited(
        tmp_path, **{f"context_encoders__images__{name}": torch.zeros(2) for name in names}
    )
    assert dict(tokenizer_tensors(path, tokenizer()))


def test_a_wrong_shape_is_named(tmp_path):
    path = edited(tmp_path, predictor__gpt_model__transformer__h__1__mlp__c_fc__bias=torch.zeros(7))
    with pytest.raises(
        WeightsError, match=r"h\.1\.mlp\.c_fc\.bias is \(7,\), the preset needs \(192,\)"
    ):
        transformer_tensors(path, transformer())


def test_an_output_layer_that_is_not_the_embedding(tmp_path):
    path = edited(tmp_path, predictor__gpt_model__lm_head__weight=torch.zeros(100, 48))
    with pytest.raises(WeightsError, match=r"is not the embedding.*Set tied: false"):
        list(transformer_tensors(path, transformer()))


def test_integers_are_no_weights(tmp_path):
    path = edited(
        tmp_path, predictor__gpt_model__transformer__ln_f__bias=torch.zeros(48, dtype=torch.int64)
    )
    with pytest.raises(WeightsError, match=r"ln_f\.bias is torch\.int64"):
        list(transformer_tensors(path, transformer()))


@pytest.mark.parametrize("kept", [0, 5, 1000, 100_000])
def test_safetensors_that_are_cut_off(tmp_path, kept):
    path = tmp_path / "x.safetensors"
    path.write_bytes(SAFE.read_bytes()[:kept])
    with pytest.raises(WeightsError, match=r"cut off.*Fetch the file again"):
        transformer_tensors(path, transformer())


def test_a_checkpoint_without_weights(tmp_path):
    for content in ({"epoch": 1}, {"state_dict": {"a": 5}}):
        torch.save(content, tmp_path / "x.ckpt")
        with pytest.raises(WeightsError, match="holds no tensors by name"):
            transformer_tensors(tmp_path / "x.ckpt", transformer())
    torch.save({"state_dict": {"a": torch.ones(2)}}, tmp_path / "x.ckpt")
    for read, config in ((transformer_tensors, transformer()), (tokenizer_tensors, tokenizer())):
        with pytest.raises(WeightsError, match=r"lacks the matrix .*It is no WHAM file"):
            read(tmp_path / "x.ckpt", config)
