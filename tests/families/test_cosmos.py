"""Cosmos' Transformer against the outputs of its official modules: logits, cache, greedy tokens,
sampling, positions.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from families.agreement import assert_close
from families.cosmos_golden import golden, official_weights, yarn
from families.golden_preset import preset_of

from diagd_cli.engine.decode import decode, prefill
from diagd_cli.engine.filters import keep_top
from diagd_cli.engine.sample import Sampling
from diagd_cli.engine.session import Session
from diagd_cli.families.cosmos.config import CosmosDvConfig
from diagd_cli.model.cache import KVCache
from diagd_cli.model.config import Positions, TransformerConfig
from diagd_cli.model.mask import Mask
from diagd_cli.model.positions import absolute_table, rope_table, signed
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.schedule.plan import build_plan
from diagd_cli.sections import Text
from diagd_cli.tokens.grid import Grid
from diagd_cli.weights.load import load_transformer

MODELS = ["base_4b_tiny", "base_12b_yarn_tiny", "video2world_5b_tiny"]


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
    """A golden Transformer: its grid, and the model with the weights from a file of the official
    layout.
    """

    def __init__(self, name: str, folder: Path):
        self.settings, self.data = golden(name)
        self.config = transformer_config(name)
        (self.frames, h, w), text = (
            self.settings["config"]["video_latent_shape"],
            "context" in self.data,
        )
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
            return self.model(
                ids, positions, Mask(visible=mask), cache, extent=self.length, cross=self.cross
            )

    def before(self, positions: torch.Tensor) -> torch.Tensor:
        """The official mask: slots at or before each position, written or not."""
        return torch.arange(self.length) <= positions[:, None]


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory) -> Golden:
    return Golden(request.param, tmp_path_factory.mktemp(request.param))


# ---- Transformer ---------------------------------------------------------------------------------


def test_logits_and_hidden_states_of_a_full_pass(model):
    hidden = []
    hooks = [
        block.register_forward_hook(lambda _m, _i, out: hidden.append(out))
        for block in model.model.blocks
    ]
    assert_close(model.full(), model.data["logits_full"])
    for hook in hooks:
        hook.remove()
    for n, state in enumerate(hidden):
        assert_close(state, model.data[f"hidden.layer{n}"])


def test_logits_by_prefill_and_then_one_token_at_a_time(model):
    cache, data = KVCache(model.config, 1, model.length), model.data
    start = torch.arange(model.prompt)
    logits = model.feed(cache, start, model.before(start))
    assert_close(logits, data["incremental.prefill_logits"])
    cache = model.filled(model.prompt)  # in chunks, as the engine does it
    for n in range(model.prompt, model.length):
        here = torch.tensor([n])
        logits = model.feed(cache, here, model.before(here))
        assert_close(logits[:, 0], data["incremental.logits"][:, n - model.prompt])
    assert_close(cache.keys[0], data["kv.layer0.k"])
    assert_close(cache.values[0], data["kv.layer0.v"])


def test_logits_of_tokens_fed_again_in_any_order(model):
    cache, positions = model.filled(model.length), model.data["requery.positions"]
    logits = model.feed(cache, positions, model.before(positions))
    assert_close(logits, model.data["requery.logits"])


def test_unwritten_slots_are_zeros_to_the_official_code_and_invisible_to_ours(model):
    positions, wanted = model.data["holes.positions"], model.data["holes.logits"]
    logits = model.feed(model.filled(model.prompt), positions, model.before(positions))
    assert_close(logits, wanted)
    written = torch.isin(
        torch.arange(model.length), torch.cat([torch.arange(model.prompt), positions])
    )
    logits = model.feed(model.filled(model.prompt), positions, model.before(positions) & written)
    assert_close(logits[:, :1], wanted[:, :1])
    assert ((logits - wanted)[:, 1:].abs().amax(-1) > 0.1).all()


def test_greedy_tokens_by_the_engine(model):
    frames = (model.prompt - model.grid.prefix) // model.grid.area
    plan = build_plan(model.grid, frames, model.frames - frames, Decoding("ntp"))
    cache, tokens = model.filled(model.prompt - 1), model.tokens.clone()
    tokens[:, model.prompt :] = 0
    assert plan.prefill == model.prompt - 1
    for _ in decode(
        model.model, plan, cache, tokens, lambda logits, _: logits.argmax(-1), model.cross
    ):
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
    assert (
        session.codes[:, frames:].ravel().tolist() == model.data["greedy.tokens"].ravel().tolist()
    )


def test_nucleus(model):
    for rule in model.settings["sampling"]:
        logits = model.data["logits_full"][:, -1] / rule["temperature"]
        wanted = model.data[f"sampling.probs_top_p{rule['top_p']}_temp{rule['temperature']}"]
        assert_close(keep_top(logits, top_p=rule["top_p"]).softmax(-1), wanted, 1e-6)
        assert torch.equal(keep_top(logits, top_p=rule["top_p"]) > -torch.inf, wanted > 0)


def test_context_padding_counts_as_in_the_official_pipeline_and_is_cut_off_for_the_true_mask(
    tmp_path,
):
    golden = Golden("video2world_5b_tiny", tmp_path)
    real = golden.data["context_mask_padding"][0].bool()
    assert golden.data["context_mask_ones"].all() and not real.all()
    golden.cross = golden.model.cross_context(golden.data["context"][:, real])
    assert_close(golden.full(), golden.data["logits_full_padding_mask"])


# ---- positions -----------------------------------------------------------------------------------


def test_position_tables(model):
    """Past the sequence the official tables are padded; those rows are never used. Our sines have a
    sign of their own.
    """
    wanted = [model.data[f"rope.{part}"][: model.length] for part in ("cos", "sin")]
    cos, sin = model.model.rotary(torch.arange(model.length), torch.float32)
    for table, part in zip((cos, signed(sin)), wanted, strict=True):
        assert_close(table[:, 0], part, 1e-6)
    if model.config.positions.absolute:
        assert torch.equal(
            model.model.absolute[: model.length].float(), model.data["ape.table"][: model.length]
        )


@pytest.mark.parametrize("name", ["4b", "12b", "5b_video2world", "13b_video2world"])
def test_position_tables_of_the_released_sizes(name):
    """Those of positions past the sequence are padding."""
    settings, data = golden("positional_full_size")
    about, (frames, h, w) = settings["models"][name], settings["latent_shape"]
    grid = Grid(h, w, prefix=int(about["bov"]))
    config = Positions(
        kind="rope-3d",
        base=settings["rope_theta"],
        yarn=yarn(settings["yarn"]) if about["yarn"] else None,
    )
    positions = data["positions.video2world" if about["bov"] else "positions.base"]
    inside = positions < grid.length(frames)
    coords = torch.from_numpy(grid.coords(grid.length(frames)))
    for part, table in zip(
        ("cos", "sin"), rope_table(config, coords, settings["head_dim"]), strict=True
    ):
        assert_close(table[positions[inside]], data[f"{name}.rope.{part}"][inside], 2e-6)
    if about["ape"]:
        positions = data["positions.ape"]
        inside = positions < grid.length(frames)
        # so the first row is the prefix's here too
        assert positions[0] == 0 and positions[1] >= grid.prefix
        rows = absolute_table(coords[positions[inside]], about["dim"], grid.prefix)
        assert torch.equal(rows.float(), data[f"{name}.ape"][inside])
