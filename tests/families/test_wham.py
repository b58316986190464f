"""WHAM against numbers of its official code: logits, greedy tokens, codes, pixels, actions and sampling.

`golden/wham` holds tiny models that the official classes made, with what went in and came out. Version 1 has norms with
weights and biases; version 2 has none in its blocks, and frames that the patch does not divide.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import diagd_cli.engine.session as session_module
from diagd_cli.engine.decode import decode, prefill
from diagd_cli.engine.filters import allowed_ids, keep_allowed, top_p_strict, truncate
from diagd_cli.engine.sample import Sampling
from diagd_cli.engine.session import Session
from diagd_cli.model.cache import KVCache
from diagd_cli.model.config import Positions, TransformerConfig
from diagd_cli.model.transformer import Transformer
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.schedule.plan import build_plan
from diagd_cli.tokens.config import VitVqConfig
from diagd_cli.tokens.gamepad import VALUES, decode_actions, encode_actions, stick_bins, stick_values, token_ranges
from diagd_cli.tokens.grid import Grid
from diagd_cli.tokens.vit import MEAN, STD, VitVqTokenizer, normalise
from diagd_cli.weights.wham import tokenizer_layout, tokenizer_tensors, transformer_layout, transformer_tensors

GOLDEN = Path(__file__).parent.parent / "golden" / "wham"
TOLERANCE = 1e-4

each_model = pytest.mark.parametrize("name", ["tiny_v1", "tiny_v2_padded"])


@dataclass
class Golden:
    """A tiny model, its configuration, and the tensors that the official code made of it."""

    grid: Grid
    window: int
    codes: int
    model: Transformer
    tokenizer: VitVqTokenizer
    tensors: dict[str, torch.Tensor]

    @property
    def ranges(self) -> torch.Tensor:
        return torch.from_numpy(allowed_ids(self.codes, self.grid.area, token_ranges(self.codes)))

    def frames(self, name: str) -> torch.Tensor:
        """uint8 [..., H, W, 3] of a tensor [..., 3, H, W]."""
        return self.tensors[name].movedim(-3, -1)


@cache
def golden(name: str) -> Golden:
    facts = json.loads((GOLDEN / f"{name}.json").read_text())
    config, derived, image = facts["config"], facts["derived"], facts["config"]["image"]
    weights = GOLDEN / f"{name}_weights.safetensors"
    grid = Grid(derived["grid_rows"], derived["grid_cols"], derived["action_tokens_per_step"])
    transformer = wham_config(
        derived["vocab_total"], config["n_embd"], config["n_layer"], config["n_head"], config["nanogpt_version"]
    )
    tokenizer = VitVqConfig(
        height=image["image_size_per_y_axis"],
        width=image["image_size_per_x_axis"],
        patch=image["patch_size"],
        dim=image["transf_dim"],
        layers=image["num_layers"],
        head_size=image["head_size"],
        code_dim=image["embedding_dim"],
        codebook=image["vocab_size"],
    )
    coords = torch.from_numpy(grid.coords(derived["block_size"] + 1))
    return Golden(
        grid,
        config["seq_len"],
        tokenizer.codebook,
        filled(Transformer(transformer, coords), transformer_tensors(weights, transformer, len(coords))),
        filled(VitVqTokenizer(tokenizer), tokenizer_tensors(weights, tokenizer)),
        load_file(GOLDEN / f"{name}_io.safetensors"),
    )


def wham_config(vocab: int, dim: int, layers: int, heads: int, version: int) -> TransformerConfig:
    return TransformerConfig(
        vocab=vocab,
        dim=dim,
        layers=layers,
        heads=heads,
        kv_heads=heads,
        head_dim=dim // heads,
        mlp_dim=4 * dim,
        activation="gelu-tanh",
        norm="layer",
        block_norm_affine=version == 1,
        bias=True,
        tied=True,
        positions=Positions(kind="learned"),
    )


def filled(module: torch.nn.Module, entries) -> torch.nn.Module:
    """The module with every one of its parameters set, once."""
    own = dict(module.named_parameters())
    for name, parts in entries:
        own.pop(name).data.copy_(torch.cat(parts))
    assert not own
    return module.eval().requires_grad_(False)


@pytest.fixture
def close(record_property):
    """Asserts that two tensors agree to 1e-4, and records their largest difference."""

    def check(ours: torch.Tensor, theirs: torch.Tensor) -> None:
        assert ours.shape == theirs.shape
        error = (ours - theirs).abs().max().item()
        record_property("largest_error", error)
        print(f"largest error {error:.2e}")
        assert error < TOLERANCE

    return check


def assert_same_frames(g: Golden, codes: torch.Tensor, theirs: torch.Tensor) -> None:
    """Decoded frames are theirs, to the bit.

    Pixels are truncated to integers. Where one lies within float error of an integer (nearer than 1e-4 of 255), the last
    bit depends on the CPU that computed it, and it may be one off.
    """
    codes = codes.view(-1, g.grid.h, g.grid.w)
    ours, theirs = g.tokenizer.decode(codes), theirs.reshape(-1, *theirs.shape[-3:])
    assert ours.dtype == torch.uint8 and ours.shape == theirs.shape
    exact = 255 * (g.tokenizer.decode_pixels(codes).movedim(1, -1) * torch.tensor(STD) + torch.tensor(MEAN))
    differ = ours != theirs
    print(f"{differ.sum()} of {differ.numel()} values differ by rounding")
    assert differ.sum() <= 2
    assert ((exact - torch.maximum(ours, theirs)).abs()[differ] < TOLERANCE).all()


# ---- the Transformer -------------------------------------------------------------------------------------------------


@each_model
@pytest.mark.parametrize("sequence", ["sequence", "fullblock"])
def test_logits(name, sequence, close):
    g = golden(name)
    tokens = g.tensors[f"{sequence}_tokens"]
    close(g.model(tokens, torch.arange(tokens.shape[1])), g.tensors[f"{sequence}_logits"])


@each_model
def test_state_after_the_final_norm(name, close):
    g, seen = golden(name), []
    hook = g.model.norm.register_forward_hook(lambda module, args, output: seen.append(output))
    tokens = g.tensors["sequence_tokens"]
    g.model(tokens, torch.arange(tokens.shape[1]))
    hook.remove()
    close(seen[0], g.tensors["sequence_hidden_final"])


@each_model
def test_cached_logits_are_those_of_the_full_pass(name, close):
    g = golden(name)
    tokens, theirs = g.tensors["fullblock_tokens"], g.tensors["fullblock_logits"]
    length, known = tokens.shape[1], g.grid.block
    kv = KVCache(g.model.config, 1, length)
    prefill(g.model, kv, tokens, np.arange(known), chunk=7)
    rest = [g.model(tokens[:, p : p + 1], torch.tensor([p]), None, kv, p + 1) for p in range(known, length)]
    close(torch.cat(rest, dim=1), theirs[:, known:])


# ---- generation ------------------------------------------------------------------------------------------------------


@each_model
def test_logits_of_a_frame_made_by_the_engine_and_of_its_actions(name, close):
    """The first generated step: image tokens by the engine, next-token; then the actions that the model would take."""
    g = golden(name)
    context = g.tensors["image_tokens"].shape[1]
    plan = build_plan(g.grid, context, 1, Decoding("ntp"))
    tokens = torch.zeros(2, g.grid.length(context + 1), dtype=torch.long)
    tokens[:, : g.grid.length(context)] = g.tensors["sequence_tokens"]
    kv, seen = KVCache(g.model.config, 2, tokens.shape[1]), []

    def choose(logits, targets):
        seen.append(logits)
        return keep_allowed(logits, g.ranges[targets % g.grid.block]).argmax(-1)

    prefill(g.model, kv, tokens, np.arange(plan.prefill))
    list(decode(g.model, plan, kv, tokens, choose))
    for target in range(plan.length, tokens.shape[1]):
        place = torch.tensor([target])
        logits = g.model(tokens[:, place - 1], place - 1, None, kv, target)
        tokens[:, place] = choose(logits, place)
    close(torch.cat(seen, dim=1), g.tensors["greedy_step0_masked_logit_source"])
    made = tokens[:, g.grid.length(context) :]
    assert torch.equal(made[:, : g.grid.area], g.tensors["dream_image_tokens"][:, 0])
    assert torch.equal(made[:, g.grid.area :] - g.codes, g.tensors["dream_predicted_action_tokens"][:, 0])


def greedy_session(g: Golden, monkeypatch) -> Session:
    """A session after the context, greedy within the allowed ids, steered by the given actions."""

    class Greedy:
        def __init__(self, sampling, seeds, places, device=None):
            pass

        def __call__(self, logits, targets):
            return keep_allowed(logits, g.ranges[targets % g.grid.block]).argmax(-1)

    monkeypatch.setattr(session_module, "Sampler", Greedy)
    codes = g.tensors["image_tokens"].numpy()
    conditioning = encode_actions(g.tensors["actions_bins"].numpy(), g.codes)
    seeds, sampling = [0] * len(codes), Sampling(g.codes)
    shape = (*codes.shape[:2], g.grid.h, g.grid.w)
    return Session(g.model, g.grid, codes.reshape(shape), conditioning, seeds, sampling, g.window, g.window - 1)


@each_model
@pytest.mark.parametrize("at_once", [True, False], ids=["in one go", "frame by frame"])
def test_greedy_frames_until_the_window_has_slid(name, at_once, monkeypatch):
    """The official code drops the oldest step once the window is full; actions are those given, not the model's own."""
    g = golden(name)
    theirs = g.tensors["dream_image_tokens"].numpy()
    session, context, frames = greedy_session(g, monkeypatch), g.tensors["image_tokens"].shape[1], theirs.shape[1]
    assert context + frames > g.window
    for part in [frames] if at_once else [1] * frames:
        list(session.extend(part, Decoding("ntp")))
    assert np.array_equal(session.codes[:, context:].reshape(theirs.shape), theirs)


@each_model
def test_generated_pixels(name, monkeypatch):
    g = golden(name)
    session, context = greedy_session(g, monkeypatch), g.tensors["image_tokens"].shape[1]
    list(session.extend(g.tensors["dream_image_tokens"].shape[1], Decoding("ntp")))
    assert_same_frames(g, torch.from_numpy(session.codes[:, context:]).contiguous(), g.frames("dream_decoded_uint8"))


@each_model
def test_diagonal_decoding_feeds_every_action_and_makes_codes_only(name, monkeypatch):
    g = golden(name)
    session, context = greedy_session(g, monkeypatch), g.tensors["image_tokens"].shape[1]
    list(session.extend(3, Decoding("spatial", k=1)))
    made = session.codes[:, context:]
    assert made.min() >= 0 and made.max() < g.codes and (made[:, :, 0, 0] > 0).all()


# ---- the tokenizer ---------------------------------------------------------------------------------------------------


@each_model
def test_normalised_pixels(name, close):
    theirs = golden(name).tensors["images_normalised_first"]
    close(normalise(golden(name).frames("images_uint8")[0, :1], torch.zeros(1)), theirs)


@each_model
def test_encoder_vectors(name, close):
    g = golden(name)
    pixels = normalise(g.frames("images_uint8").flatten(0, 1), torch.zeros(1))
    close(g.tokenizer.embed(pixels).flatten(1, 2), g.tensors["encoder_embeddings"])


@each_model
def test_codes(name):
    g = golden(name)
    codes = g.tokenizer.encode(g.frames("images_uint8").flatten(0, 1))
    assert codes.dtype == torch.int64 and codes.shape[1:] == (g.grid.h, g.grid.w)
    assert torch.equal(codes.flatten(1), g.tensors["image_tokens"].flatten(0, 1))


@each_model
def test_decoded_pixels_before_rounding(name, close):
    g = golden(name)
    codes = g.tensors["image_tokens"].view(-1, g.grid.h, g.grid.w)
    close(g.tokenizer.decode_pixels(codes), g.tensors["decoder_float"].flatten(0, 1))


@each_model
@pytest.mark.parametrize("tokens, frames", [("image_tokens", "decoded_uint8"), ("sweep_tokens", "sweep_decoded_uint8")])
def test_decoded_frames(name, tokens, frames):
    g = golden(name)
    assert_same_frames(g, g.tensors[tokens], g.frames(frames))


def test_frames_do_not_depend_on_how_many_there_are():
    g = golden("tiny_v1")
    frames = g.frames("images_uint8").flatten(0, 1).repeat(5, 1, 1, 1)  # more than are done at once
    codes = g.tokenizer.encode(frames)
    assert torch.equal(codes[:4], codes[-4:]) and torch.equal(codes[:1], g.tokenizer.encode(frames[:1]))
    assert torch.equal(g.tokenizer.decode(codes)[-1:], g.tokenizer.decode(codes[-1:]))


def test_frames_and_codes_of_another_size_are_a_mistake():
    g = golden("tiny_v1")
    with pytest.raises(ValueError, match="the tokenizer takes"):
        g.tokenizer.encode(torch.zeros(1, 50, 30, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="the tokenizer takes"):
        g.tokenizer.decode(torch.zeros(1, g.grid.w, g.grid.h, dtype=torch.long))


# ---- actions ---------------------------------------------------------------------------------------------------------


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
    assert np.array_equal(stick_bins(np.array(tables["random_sticks"], dtype=dtype)), tables["random_stick_bins"])


def test_stick_values(tables):
    values = stick_values(np.arange(11))
    assert values.tolist() == np.float32(tables["bin_middles"]).tolist()
    assert stick_bins(values).tolist() == list(range(11))


def test_token_ranges(tables):
    assert token_ranges().tolist() == tables["local_token_ranges"]
    assert token_ranges(16384).tolist() == tables["global_token_ranges_for_16384_images"]
    for place, tokens in enumerate(tables["token_for_each_value"]):
        actions = np.zeros((len(tokens), VALUES))
        actions[:, place] = np.arange(len(tokens))
        assert encode_actions(actions)[:, place].tolist() == tokens


@each_model
def test_allowed_ids(name):
    derived = json.loads((GOLDEN / f"{name}.json").read_text())["derived"]
    ours = golden(name).ranges.tolist()
    area = derived["image_tokens_per_frame"]
    assert ours[0] == derived["image_token_range_first"]
    assert ours[1:area] == [derived["image_token_range_other"]] * (area - 1)
    assert ours[area:] == derived["action_token_ranges"]


# ---- sampling --------------------------------------------------------------------------------------------------------

CASES = json.loads((GOLDEN / "sampling.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=[case["tensor"] for case in CASES])
def test_sampling(case, close):
    tensors = load_file(GOLDEN / "sampling.safetensors")
    logits, theirs = tensors["logits"], tensors[case["tensor"]]
    low, high = case.get("valid_token_range") or (0, logits.shape[-1] - 1)
    top_k = 1 if case.get("deterministic") else case.get("top_k") or 0
    ranges = torch.tensor([[low, high]]).expand(len(logits), 2)
    keep = case.get("min_tokens_to_keep", 1)
    ours = truncate(logits, ranges, case["temperature"], top_k, case.get("top_p"), keep).softmax(-1)
    close(ours, theirs)
    assert torch.equal(ours > 0, theirs > 0)


def test_the_token_that_crosses_p_is_dropped():
    kept = top_p_strict(torch.tensor([0.3, 0.05, 0.5, 0.15]).log(), 0.6)
    assert kept.isfinite().tolist() == [False, False, True, False]


def test_top_k_and_top_p_exclude_each_other():
    with pytest.raises(ValueError, match="exclude"):
        truncate(torch.zeros(1, 4), torch.tensor([[0, 3]]), 1.0, top_k=2, top_p=0.5)


# ---- the official geometries -----------------------------------------------------------------------------------------

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
    ours = dict([*transformer_layout(OFFICIAL[name], 5560).values(), *tokenizer_layout(VitVqConfig()).values()])
    assert ours == {key: shape for key, shape in theirs.items() if key not in masks}


@pytest.mark.parametrize("name", OFFICIAL)
def test_parameters_of_the_official_models(name):
    expected = json.loads((GOLDEN / "expected_keys.json").read_text())[name]
    with torch.device("meta"):
        transformer, tokenizer = Transformer(OFFICIAL[name], torch.zeros(5560, 3)), VitVqTokenizer(VitVqConfig())
    assert sum(p.numel() for p in transformer.parameters()) == expected["gpt_parameters"]
    assert sum(p.numel() for p in tokenizer.parameters()) == expected["tokenizer_parameters"]
