"""Cosmos against the outputs of its official modules: Transformer, positions, tokenizer, sampling, pixels.

`pytest -s` prints the largest error of each comparison.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from families.golden_preset import preset_of
from safetensors.torch import load_file, save_file

from diagd_cli.clip.fit import fit_pixels
from diagd_cli.config import Text
from diagd_cli.engine.decode import decode, prefill
from diagd_cli.engine.filters import keep_top
from diagd_cli.engine.sample import Sampling
from diagd_cli.engine.session import Session
from diagd_cli.model.cache import KVCache
from diagd_cli.model.config import Positions, TransformerConfig, Yarn
from diagd_cli.model.positions import absolute_table, rope_table, signed
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.schedule.plan import build_plan
from diagd_cli.tokens import cosmos_layers
from diagd_cli.tokens.config import CosmosDvConfig
from diagd_cli.tokens.cosmos import CosmosTokenizer, to_frames
from diagd_cli.tokens.cosmos_layers import patch, unpatch
from diagd_cli.tokens.grid import Grid
from diagd_cli.weights.load import load_tokenizer, load_transformer

GOLDEN = Path(__file__).parents[1] / "golden" / "cosmos"
MODELS = ["base_4b_tiny", "base_12b_yarn_tiny", "video2world_5b_tiny"]
CLIPS, CODES = ["clip9", "clip17", "image"], ["dec3x1x2", "dec2x2x3", "dec1x2x3"]
ERRORS: dict[str, float] = {}


@pytest.fixture(scope="module", autouse=True)
def largest_errors():
    yield
    print("\n" + "\n".join(f"{error:9.2e}  {what}" for what, error in sorted(ERRORS.items())))


def close(what: str, seen: torch.Tensor, wanted: torch.Tensor, limit: float) -> None:
    """Same shape, and nowhere further apart than the limit."""
    assert seen.shape == wanted.shape
    ERRORS[what] = max(ERRORS.get(what, 0.0), (seen.float() - wanted.float()).abs().max().item())
    assert ERRORS[what] <= limit


# ---- what the golden data describe -----------------------------------------------------------------------------------


@cache
def golden(name: str) -> tuple[dict, dict[str, torch.Tensor]]:
    """Settings and tensors of one file."""
    return json.loads((GOLDEN / f"{name}.json").read_text()), load_file(GOLDEN / f"{name}.safetensors")


def official_weights(name: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix("weights."): v for k, v in golden(name)[1].items() if k.startswith("weights.")}


def yarn(settings: dict) -> Yarn:
    """From the settings' names, whose prefix differs between the files."""
    names = {"scale": "scale", "beta_fast": "beta_fast", "beta_slow": "beta_slow", "original": "original_latent_shape"}
    return Yarn(**{ours: settings.get(f"yarn_{name}", settings.get(name)) for ours, name in names.items()})


def transformer_config(name: str) -> TransformerConfig:
    settings = golden(name)[0]["config"]
    vocab, text = settings["vocab_size"], settings["insert_cross_attn"]
    multiple = settings["pad_to_multiple_of"]
    return TransformerConfig(
        vocab=-(-(vocab + 1) // multiple) * multiple if text else vocab,
        outputs=vocab,
        dim=settings["dim"],
        layers=settings["n_layers"],
        heads=settings["n_heads"],
        kv_heads=settings["n_kv_heads"],
        head_dim=settings["head_dim"] or settings["dim"] // settings["n_heads"],
        mlp_dim=settings["ffn_hidden_size"],
        norm_eps=settings["norm_eps"],
        qk_norm=True,
        cross_dim=settings["context_dim"] if text else 0,
        positions=Positions(
            kind="rope-3d",
            base=settings["rope_theta"],
            yarn=yarn(settings) if settings["apply_yarn"] else None,
            absolute=settings["apply_abs_pos_emb"],
        ),
    )


class Golden:
    """A golden Transformer: its grid, and the model with the weights from a file of the official layout."""

    def __init__(self, name: str, folder: Path):
        self.settings, self.data = golden(name)
        self.config = transformer_config(name)
        (self.frames, h, w), text = self.settings["config"]["video_latent_shape"], "context" in self.data
        self.grid = Grid(h, w, prefix=int(text))
        self.prompt = self.settings["config"]["prefill_len"]
        self.length = self.grid.length(self.frames)
        torch.save(official_weights(name), folder / "model.pt")
        more = {"text": Text(), "prefix": (self.config.logits,)} if text else {}
        codec = CosmosDvConfig(levels=(8, 12))
        preset = preset_of(codec, self.config, 16 * h, 16 * w, window=8 * self.frames - 7, **more)
        assert preset.grid == self.grid
        self.model = load_transformer(preset, files=[folder / "model.pt"])
        self.cross = self.model.cross_context(self.data["context"]) if text else None
        self.tokens = self.data["tokens"]

    def full(self) -> torch.Tensor:
        with torch.inference_mode():
            return self.model(self.tokens, torch.arange(self.length), cross=self.cross)

    def filled(self, count: int) -> KVCache:
        """A cache with the first `count` tokens."""
        cache = KVCache(self.config, 1, self.length)
        prefill(self.model, cache, self.tokens, np.arange(count), self.cross, chunk=7)
        return cache

    def feed(self, cache: KVCache, positions: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits of the sequence's tokens at some positions, under a mask over all slots."""
        with torch.inference_mode():
            ids = self.tokens[:, positions]
            return self.model(ids, positions, mask, cache, extent=self.length, cross=self.cross)

    def before(self, positions: torch.Tensor) -> torch.Tensor:
        """The official mask: slots at or before each position, written or not."""
        return torch.arange(self.length) <= positions[:, None]


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory) -> Golden:
    return Golden(request.param, tmp_path_factory.mktemp(request.param))


# ---- Transformer -----------------------------------------------------------------------------------------------------


def test_logits_and_hidden_states_of_a_full_pass(model):
    hidden = []
    hooks = [block.register_forward_hook(lambda _m, _i, out: hidden.append(out)) for block in model.model.blocks]
    close("logits, full pass", model.full(), model.data["logits_full"], 1e-4)
    for hook in hooks:
        hook.remove()
    for n, state in enumerate(hidden):
        close("hidden states", state, model.data[f"hidden.layer{n}"], 1e-4)


def test_logits_by_prefill_and_then_one_token_at_a_time(model):
    cache, data = KVCache(model.config, 1, model.length), model.data
    start = torch.arange(model.prompt)
    logits = model.feed(cache, start, model.before(start))
    close("logits, prefill", logits, data["incremental.prefill_logits"], 1e-4)
    cache = model.filled(model.prompt)  # in chunks, as the engine does it
    for n in range(model.prompt, model.length):
        here = torch.tensor([n])
        logits = model.feed(cache, here, model.before(here))
        close("logits, incremental", logits[:, 0], data["incremental.logits"][:, n - model.prompt], 1e-4)
    close("cache", cache.keys[0], data["kv.layer0.k"], 1e-4)
    close("cache", cache.values[0], data["kv.layer0.v"], 1e-4)


def test_logits_of_tokens_fed_again_in_any_order(model):
    cache, positions = model.filled(model.length), model.data["requery.positions"]
    logits = model.feed(cache, positions, model.before(positions))
    close("logits, requery", logits, model.data["requery.logits"], 1e-4)


def test_unwritten_slots_are_zeros_to_the_official_code_and_invisible_to_ours(model):
    positions, wanted = model.data["holes.positions"], model.data["holes.logits"]
    logits = model.feed(model.filled(model.prompt), positions, model.before(positions))
    close("logits, zero slots as official", logits, wanted, 1e-4)
    written = torch.isin(torch.arange(model.length), torch.cat([torch.arange(model.prompt), positions]))
    logits = model.feed(model.filled(model.prompt), positions, model.before(positions) & written)
    close("logits, zero slots as official", logits[:, :1], wanted[:, :1], 1e-4)
    assert ((logits - wanted)[:, 1:].abs().amax(-1) > 0.1).all()


def test_greedy_tokens_by_the_engine(model):
    frames = (model.prompt - model.grid.prefix) // model.grid.area
    plan = build_plan(model.grid, frames, model.frames - frames, Decoding("ntp"))
    cache, tokens = model.filled(model.prompt - 1), model.tokens.clone()
    tokens[:, model.prompt :] = 0
    assert plan.prefill == model.prompt - 1
    for _ in decode(model.model, plan, cache, tokens, lambda logits, _: logits.argmax(-1), model.cross):
        pass
    assert torch.equal(tokens[:, model.prompt :], model.data["greedy.tokens"])


def test_greedy_tokens_by_a_session(model):
    frames = (model.prompt - model.grid.prefix) // model.grid.area
    begin, known = np.split(model.tokens[:, : model.prompt].numpy(), [model.grid.prefix], axis=1)
    session = Session(
        model.model,
        model.grid,
        known.reshape(1, frames, model.grid.h, model.grid.w),
        np.zeros((1, model.frames, 0), dtype=np.int64),
        [0],
        Sampling(model.config.logits, temperature=0),
        window=model.frames,
        overlap=frames,
        prefix=begin[0] if model.grid.prefix else None,
        cross=model.cross,
    )
    list(session.extend(model.frames - frames, Decoding("ntp")))
    assert session.codes[:, frames:].ravel().tolist() == model.data["greedy.tokens"].ravel().tolist()


def test_nucleus(model):
    for rule in model.settings["sampling"]:
        logits = model.data["logits_full"][:, -1] / rule["temperature"]
        wanted = model.data[f"sampling.probs_top_p{rule['top_p']}_temp{rule['temperature']}"]
        close("nucleus", keep_top(logits, top_p=rule["top_p"]).softmax(-1), wanted, 1e-6)
        assert torch.equal(keep_top(logits, top_p=rule["top_p"]) > -torch.inf, wanted > 0)


def test_context_padding_counts_as_in_the_official_pipeline_and_is_cut_off_for_the_true_mask(tmp_path):
    golden = Golden("video2world_5b_tiny", tmp_path)
    real = golden.data["context_mask_padding"][0].bool()
    assert golden.data["context_mask_ones"].all() and not real.all()
    golden.cross = golden.model.cross_context(golden.data["context"][:, real])
    close("logits, padding mask", golden.full(), golden.data["logits_full_padding_mask"], 1e-4)


# ---- positions -------------------------------------------------------------------------------------------------------


def test_position_tables(model):
    """Past the sequence the official tables are padded; those rows are never used. Our sines have a sign of their own."""
    wanted = [model.data[f"rope.{part}"][: model.length] for part in ("cos", "sin")]
    for table, part in zip((model.model.cos, signed(model.model.sin)), wanted, strict=True):
        close("rotary tables", table[: model.length, 0], part, 1e-6)
    if model.config.positions.absolute:
        assert torch.equal(model.model.absolute[: model.length].float(), model.data["ape.table"][: model.length])


@pytest.mark.parametrize("name", ["4b", "12b", "5b_video2world", "13b_video2world"])
def test_position_tables_of_the_released_sizes(name):
    """Those of positions past the sequence are padding."""
    settings, data = golden("positional_full_size")
    about, (frames, h, w) = settings["models"][name], settings["latent_shape"]
    grid = Grid(h, w, prefix=int(about["bov"]))
    config = Positions(
        kind="rope-3d", base=settings["rope_theta"], yarn=yarn(settings["yarn"]) if about["yarn"] else None
    )
    positions = data["positions.video2world" if about["bov"] else "positions.base"]
    inside = positions < grid.length(frames)
    coords = torch.from_numpy(grid.coords(grid.length(frames)))
    for part, table in zip(("cos", "sin"), rope_table(config, coords, settings["head_dim"]), strict=True):
        close("rotary tables, full size", table[positions[inside]], data[f"{name}.rope.{part}"][inside], 2e-6)
    if about["ape"]:
        positions = data["positions.ape"]
        inside = positions < grid.length(frames)
        assert positions[0] == 0 and positions[1] >= grid.prefix  # so the first row is the prefix's here too
        rows = absolute_table(coords[positions[inside]], about["dim"], grid.prefix)
        assert torch.equal(rows.float(), data[f"{name}.ape"][inside])


# ---- tokenizer -------------------------------------------------------------------------------------------------------


def tokenizer_config() -> CosmosDvConfig:
    settings = golden("tokenizer_dv8x16x16_tiny")[0]["config"]
    return CosmosDvConfig(
        levels=settings["levels"],
        channels=settings["channels"],
        multipliers=settings["channels_mult"],
        blocks=settings["num_res_blocks"],
        z_channels=settings["z_channels"],
        patch=settings["patch_size"],
        spatial_compression=settings["spatial_compression"],
        temporal_compression=settings["temporal_compression"],
        resolution=settings["resolution"],
        attention=settings["attn_resolutions"],
    )


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> CosmosTokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.safetensors"
    save_file(official_weights("tokenizer_dv8x16x16_tiny"), path)
    sizes = {"vocab": 64000, "dim": 8, "layers": 1, "heads": 1, "kv_heads": 1, "head_dim": 8, "mlp_dim": 8}
    preset = preset_of(tokenizer_config(), TransformerConfig(**sizes), 32, 48, window=17)
    return load_tokenizer(preset, files=[path])


def tokens(name: str) -> torch.Tensor:
    return golden("tokenizer_dv8x16x16_tiny")[1][name]


@pytest.mark.parametrize("clip", CLIPS)
def test_codes_of_a_clip(tokenizer, clip):
    frames, wanted = tokens(f"{clip}.video_u8"), tokens(f"{clip}.indices").long()
    pixels = frames.float() / 255 * 2 - 1
    with torch.inference_mode():
        z = tokenizer.encoder(pixels)
        close("encoder", z, tokens(f"{clip}.encoder_z"), 1e-4)
        close("before quantisation", tokenizer.quant_conv(z), tokens(f"{clip}.pre_quant"), 1e-4)
    assert torch.equal(tokenizer.encode_pixels(pixels), wanted)
    assert torch.equal(tokenizer.encode(frames[0].movedim(0, -1)), wanted[0])
    assert torch.equal(tokenizer.quantiser.codes(wanted).movedim(-1, 1), tokens(f"{clip}.codes"))


@pytest.mark.parametrize("clip", CODES)
def test_pixels_of_codes(tokenizer, clip):
    codes, wanted = tokens(f"{clip}.indices"), tokens(f"{clip}.video")
    assert torch.equal(tokenizer.quantiser.codes(codes).movedim(-1, 1), tokens(f"{clip}.codes"))
    close("pixels", tokenizer.decode_pixels(codes), wanted, 1e-4)
    truncated = ((wanted * 0.5 + 0.5).clamp(0, 1) * 255).to(torch.uint8)[0].movedim(0, -1)
    assert torch.equal(tokenizer.decode(codes[0]), truncated)


def test_large_clips_go_frame_by_frame_to_the_same_end(tokenizer, monkeypatch):
    monkeypatch.setattr(cosmos_layers, "AT_ONCE", 0)
    assert torch.equal(tokenizer.encode_pixels(tokens("clip9.video_u8").float() / 255 * 2 - 1), tokens("clip9.indices"))
    pixels = tokenizer.decode_pixels(tokens("dec2x2x3.indices"))
    close("pixels, frame by frame", pixels, tokens("dec2x2x3.video"), 1e-4)


def test_the_first_codes_do_not_depend_on_later_frames(tokenizer):
    frames = tokens("clip17.video_u8")[0].movedim(0, -1)
    for count, latents in ((1, 1), (9, 2)):
        assert torch.equal(tokenizer.encode(frames[:count]), tokenizer.encode(frames)[:latents])


def test_patches_and_their_inverse():
    size = golden("tokenizer_dv8x16x16_tiny")[0]["config"]["patch_size"]
    close("patches", patch(tokens("patch.in"), size), tokens("patch.out"), 1e-5)
    close("patches, inverse", unpatch(tokens("unpatch.in"), size), tokens("unpatch.out"), 1e-5)


def test_finite_scalar_quantisation(tokenizer):
    fsq = tokenizer.quantiser
    assert torch.equal(fsq.codes(tokens("fsq.indices")), tokens("fsq.codes"))
    assert torch.equal(fsq.indices(tokens("fsq.z")), tokens("fsq.z_indices").long())
    assert torch.equal(fsq.quantise(tokens("fsq.z")), tokens("fsq.z_codes"))
    every = torch.arange(fsq.size)
    assert torch.equal(((fsq.codes(every) * fsq.middle + fsq.middle).long() * fsq.basis).sum(-1), every)


OTHERS = {
    "more levels": {"multipliers": (1, 2, 2, 3), "resolution": 2048},
    "less compression": {"spatial_compression": 8, "temporal_compression": 8},
    "patches alone in time": {"spatial_compression": 8, "temporal_compression": 4},
    "small patches": {"patch": 2, "multipliers": (1, 1, 1, 1), "spatial_compression": 8, "temporal_compression": 8},
    "attention in a level": {"attention": (128,)},
    "other codes": {"levels": (4, 3), "z_channels": 5},
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_sizes_of_other_tokenizers(change):
    config = CosmosDvConfig(**{"channels": 2, "blocks": 1, **change})
    model, frames = CosmosTokenizer(config), 1 + config.temporal
    clip = torch.randint(0, 256, (frames, 2 * config.spatial, config.spatial, 3), dtype=torch.uint8)
    codes = model.encode(clip)
    assert codes.shape == (2, 2, 1) and codes.min() >= 0 and codes.max() < model.codebook == config.codebook
    assert model.decode(codes).shape == clip.shape
    names = {name.split(".block.")[0] for name in model.state_dict() if ".attn." in name}
    assert bool(names) == ("attention" in change)


@pytest.mark.parametrize("shape", [(8, 16, 16), (0, 16, 16), (9, 24, 16), (9, 16, 8)])
def test_clips_of_the_wrong_size_are_refused(shape):
    config = CosmosDvConfig(channels=1, blocks=1)
    with pytest.raises(ValueError, match=f"clip is {shape[0]}x{shape[1]}x{shape[2]}"):
        CosmosTokenizer(config).encode(torch.zeros(*shape, 3, dtype=torch.uint8))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"patch": 3}, "patch .3. must be a power of two"),
        ({"spatial_compression": 2}, "cannot be below patch"),
        ({"temporal_compression": 32, "multipliers": (1,) * 9}, "cannot exceed spatial_compression"),
        ({"multipliers": (1, 2)}, "too few to reach"),
        ({"temporal_compression": 16}, "too few to reach"),
    ],
)
def test_settings_that_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        CosmosDvConfig(**change)


# ---- pixels in and out -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", range(5))
def test_input_is_resized_and_cropped_as_officially(n):
    settings, data = golden("preprocess")
    assert torch.equal(fit_pixels(data[f"resize{n}.in"], *settings["cases"][n]["resolution"]), data[f"resize{n}.out"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_output_frames_are_truncated(dtype):
    _, data = golden("preprocess")
    pixels = data["post.decoded"].to(getattr(torch, dtype))
    assert torch.equal(to_frames(pixels), data[f"post.uint8_from_{dtype}"])
