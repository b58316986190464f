"""WHAM's tokenizer, actions, sampling and file layout against its official code."""

import json

import numpy as np
import pytest
import torch
from families.agreement import assert_close
from families.wham_golden import GOLDEN, assert_same_frames, each_model, golden, wham_config
from safetensors.torch import load_file

from diagd_cli.checkpoints.match import flat
from diagd_cli.engine.filters import keep_top, nucleus
from diagd_cli.families.wham.actions import VALUES, decode_actions, encode_actions, stick_bins
from diagd_cli.families.wham.checkpoint import tokenizer_layout, transformer_layout
from diagd_cli.families.wham.config import VitVqConfig
from diagd_cli.families.wham.tokenizer import VitVqTokenizer, normalise
from diagd_cli.model.transformer import Transformer
from diagd_cli.model.unset import Unset

# ---- the tokenizer -------------------------------------------------------------------------------


@each_model
def test_normalised_pixels(name):
    theirs = golden(name).tensors["images_normalised_first"]
    assert_close(normalise(golden(name).frames("images_uint8")[0, :1], torch.zeros(1)), theirs)


@each_model
def test_encoder_vectors(name):
    g = golden(name)
    pixels = normalise(g.frames("images_uint8").flatten(0, 1), torch.zeros(1))
    assert_close(g.tokenizer.embed(pixels).flatten(1, 2), g.tensors["encoder_embeddings"])


@each_model
def test_codes(name):
    g = golden(name)
    codes = g.tokenizer.encode(g.frames("images_uint8").flatten(0, 1))
    assert codes.dtype == torch.int64 and codes.shape[1:] == (g.grid.h, g.grid.w)
    assert torch.equal(codes.flatten(1), g.tensors["image_tokens"].flatten(0, 1))


@each_model
def test_decoded_pixels_before_rounding(name):
    g = golden(name)
    codes = g.tensors["image_tokens"].view(-1, g.grid.h, g.grid.w)
    assert_close(g.tokenizer.decode_pixels(codes), g.tensors["decoder_float"].flatten(0, 1))


@each_model
@pytest.mark.parametrize(
    "tokens, frames", [("image_tokens", "decoded_uint8"), ("sweep_tokens", "sweep_decoded_uint8")]
)
def test_decoded_frames(name, tokens, frames):
    g = golden(name)
    assert_same_frames(g, g.tensors[tokens], g.frames(frames))


def test_frames_do_not_depend_on_how_many_there_are():
    g = golden("tiny_v1")
    frames = g.frames("images_uint8").flatten(0, 1).repeat(5, 1, 1, 1)  # more than are done at once
    codes = g.tokenizer.encode(frames)
    assert torch.equal(codes[:4], codes[-4:]) and torch.equal(
        codes[:1], g.tokenizer.encode(frames[:1])
    )
    assert torch.equal(g.tokenizer.decode(codes)[-1:], g.tokenizer.decode(codes[-1:]))


def test_frames_and_codes_of_another_size_are_a_mistake():
    g = golden("tiny_v1")
    with pytest.raises(ValueError, match="the tokenizer takes"):
        g.tokenizer.encode(torch.zeros(1, 50, 30, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="the tokenizer takes"):
        g.tokenizer.decode(torch.zeros(1, g.grid.w, g.grid.h, dtype=torch.long))


# ---- actions -------------------------------------------------------------------------------------


@each_model
def test_action_tokens(name):
    g = golden(name)
    actions = g.tensors["actions_bins"].numpy()
    tokens = encode_actions(actions)
    assert np.array_equal(tokens, g.tensors["action_tokens_local"])
    assert np.array_equal(decode_actions(tokens), g.tensors["actions_decoded"])
    assert np.array_equal(decode_actions(encode_actions(actions, g.codes), g.codes), actions)


@each_model
def test_sequence_of_codes_and_actions(name):
    g = golden(name)
    codes = g.tensors["image_tokens"].numpy()
    context = codes.shape[1]
    actions = encode_actions(g.tensors["actions_bins"].numpy()[:, :context], g.codes)
    ours = g.grid.flatten(codes.reshape(*codes.shape[:2], g.grid.h, g.grid.w), actions)
    assert np.array_equal(ours, g.tensors["sequence_tokens"])


@pytest.fixture(scope="module")
def tables() -> dict:
    return json.loads((GOLDEN / "action_tables.json").read_text())


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_stick_bins(tables, dtype):
    table = tables[f"digitise_table_{dtype}"]
    values = np.array([row["value"] for row in table], dtype=dtype)
    assert stick_bins(values).tolist() == [row["bin"] for row in table]
    assert np.array_equal(
        stick_bins(np.array(tables["random_sticks"], dtype=dtype)), tables["random_stick_bins"]
    )


def test_tokens_of_every_value(tables):
    assert stick_bins(np.float32(tables["bin_middles"])).tolist() == list(range(11))
    for place, tokens in enumerate(tables["token_for_each_value"]):
        actions = np.zeros((len(tokens), VALUES))
        actions[:, place] = np.arange(len(tokens))
        assert encode_actions(actions)[:, place].tolist() == tokens


# ---- sampling ------------------------------------------------------------------------------------

CASES = json.loads((GOLDEN / "sampling.json").read_text())["cases"]
# which only its function has, not its models
CASES = [case for case in CASES if "min_tokens_to_keep" not in case]


@pytest.mark.parametrize("case", CASES, ids=[case["tensor"] for case in CASES])
def test_sampling(case):
    """The official order: temperature, never below 0.1, then allowed ids, then top-k or top-p,
    softmax.
    """
    tensors = load_file(GOLDEN / "sampling.safetensors")
    logits, theirs = tensors["logits"], tensors[case["tensor"]]
    low, high = case.get("valid_token_range") or (0, logits.shape[-1] - 1)
    top_k = 1 if case.get("deterministic") else case.get("top_k") or 0
    allowed = torch.full_like(logits, -torch.inf)
    allowed[:, low : high + 1] = logits[:, low : high + 1] / max(case["temperature"], 0.1)
    kept, ids = keep_top(allowed, top_k), torch.arange(logits.shape[-1]).expand_as(logits)
    if "top_p" in case:
        kept, ids = nucleus(kept, case["top_p"], strict=True)
    ours = torch.zeros_like(logits).scatter(-1, ids, kept.softmax(-1))
    assert_close(ours, theirs)
    assert torch.equal(ours > 0, theirs > 0)


# ---- the official geometries ---------------------------------------------------------------------

OFFICIAL = {
    "WHAM_200M": wham_config(16452, 1024, 16, 16, version=2),
    "WHAM_1.6B_v1": wham_config(16452, 2304, 24, 18, version=1),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_keys_and_shapes_of_the_official_files(name):
    expected = json.loads((GOLDEN / "expected_keys.json").read_text())[name]
    depth = {"transformer.h": OFFICIAL[name].layers, "coder.vit": VitVqConfig().layers}
    theirs = {}
    for pattern, entry in expected["patterns"].items():
        count = next((layers for part, layers in depth.items() if f"{part}.{{i}}" in pattern), 1)
        theirs |= {pattern.replace("{i}", str(i)): tuple(entry["shape"]) for i in range(count)}
    assert len(theirs) == expected["n_keys"]
    masks = {key for key in theirs if key.endswith("attn_mask")}
    ours = flat(transformer_layout(OFFICIAL[name], 5560) | tokenizer_layout(VitVqConfig()))
    assert ours == {key: shape for key, shape in theirs.items() if key not in masks}


@pytest.mark.parametrize("name", OFFICIAL)
def test_parameters_of_the_official_models(name):
    expected = json.loads((GOLDEN / "expected_keys.json").read_text())[name]
    with Unset("meta"):
        transformer, tokenizer = (
            Transformer(OFFICIAL[name], torch.zeros(5560, 3)),
            VitVqTokenizer(VitVqConfig()),
        )
    assert sum(p.numel() for p in transformer.parameters()) == expected["gpt_parameters"]
    assert sum(p.numel() for p in tokenizer.parameters()) == expected["tokenizer_parameters"]
