"""LlamaGen's class-conditional Transformer against its official code: logits, and images made with
guidance, without, and with it for a part.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from families.agreement import assert_close
from families.llamagen_golden import GOLDEN, GUIDED_LIMIT, LIMIT, WEIGHTS, golden
from safetensors.torch import load_file, save_file

from diagd_cli.engine.filters import keep_top, nucleus
from diagd_cli.engine.guided import Guided
from diagd_cli.engine.session import Session
from diagd_cli.errors import UsageError, WeightsError
from diagd_cli.families.llamagen.checkpoint import OFFICIAL, transformer_tensors
from diagd_cli.model.config import Positions
from diagd_cli.model.positions import Rotary, signed
from diagd_cli.preset_files import load_preset
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.tokens.grid import Grid
from diagd_cli.weights.parameters import transformer_parameters


def prefixes():
    """Of the two images, and of none."""
    g = golden()
    own = [g.preset.prefix_of(int(label)) for label in g.tensors["labels"]]
    return np.array(own), np.array([g.preset.prefix] * 2)


# ---- the Transformer -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["logits", "logits_null"])
def test_logits_with_a_class_and_with_none(name):
    g, (own, nothing) = golden(), prefixes()
    first = torch.from_numpy(own if name == "logits" else nothing)
    ids = torch.cat([first, g.tensors["ids"]], dim=1)
    seen = []
    hooks = [
        block.register_forward_hook(lambda module, args, output: seen.append(output))
        for block in g.model.blocks
    ]
    logits = g.model(ids, torch.arange(ids.shape[1]))
    for hook in hooks:
        hook.remove()
    if name == "logits":
        assert_close(g.model.embed(ids), g.tensors["embeddings"], 0)
        for n, state in enumerate(seen):
            assert_close(state, g.tensors[f"hidden.layer{n}"], LIMIT)
    assert_close(logits, g.tensors[name], LIMIT)


@pytest.mark.parametrize("name", ["hd64_grid16_cond1", "hd64_grid24_cond1", "hd100_grid24_cond1",
                                  "hd64_grid32_cond120"])  # fmt: skip
def test_angles_of_the_released_sizes(name):
    """What stands before the image has neither cosine nor sine."""
    width, side, before = (
        int(part.lstrip("hdgricon")) for part in name.replace("cond", "c").split("_")
    )
    tensors, grid = load_file(GOLDEN / "rope_full_size.safetensors"), Grid(side, side, 0, before)
    config = Positions(kind="rope-2d", prefix="zero")
    coords = torch.from_numpy(grid.coords(grid.length(1)))
    cos, sin = Rotary(config, coords, before, width)(tensors[f"{name}.positions"], torch.float32)
    ours = torch.stack([cos, signed(sin)], dim=-1)[:, 0, : width // 2]
    # a frequency's last bit is the processor's, and the 32nd place turns by 32 times as much
    assert_close(ours, tensors[f"{name}.rows"], 5e-6)


# ---- images --------------------------------------------------------------------------------------


def session_of(guidance, temperature=0.0, choose=None):
    g, (own, _) = golden(), prefixes()
    none = (
        np.zeros((2, 0, g.preset.grid.h, g.preset.grid.w), np.int64),
        np.zeros((2, 1, 0), np.int64),
    )
    how = g.preset.sampling(temperature=temperature, top_k=0)
    return Session(g.model, g.preset.grid, *none, [0, 0], how, 1, 0, prefix=own, guidance=guidance)


def image(guidance, method="ntp", **options):
    session = session_of(guidance)
    list(session.extend(1, Decoding(method, stand_in="newest", **options)))
    return torch.from_numpy(session.codes[:, 0].reshape(2, -1))


@pytest.mark.parametrize("method", ["ntp", "exact"])
def test_images_are_the_official_ones(method):
    """With guidance, without, and with guidance of the first codes: cfg_interval c guides c + 2."""
    g = golden()
    scale, interval = g.facts["cfg_scale"], g.facts["cfg_interval"]
    whole = g.preset.guided()
    assert whole.scale == scale and g.preset.guided(1.0) is None
    assert torch.equal(image(whole, method), g.tensors["greedy.tokens"])
    assert torch.equal(image(None, method), g.tensors["greedy_no_cfg.tokens"])
    part = replace(whole, tokens=interval + 2)
    assert torch.equal(image(part, method), g.tensors["greedy_interval.tokens"])


def test_guided_logits_of_every_step_are_the_official_ones():
    """On a cache, with the image given."""
    g, seen = golden(), []
    session = session_of(g.preset.guided())
    state = session._go_on(Decoding("ntp"))

    def choose(logits, targets):
        seen.append(logits)
        return g.tensors["ids"][:, targets - 1]

    state.steps.choose = Guided(g.preset.guided(), choose, g.preset.grid)
    list(session.extend(1, Decoding("ntp")))
    assert_close(torch.cat(seen, dim=1), g.tensors["cached.cfg_logits"], GUIDED_LIMIT)


def test_draws_are_the_official_ones_by_their_noise():
    g, rules = golden(), golden().facts["sampled"]
    session = session_of(g.preset.guided(rules["cfg_scale"]))
    state = session._go_on(Decoding("ntp"))

    def choose(logits, targets):
        kept, ids = nucleus(
            keep_top(logits / rules["temperature"], rules["top_k"]), rules["top_p"], False
        )
        made = torch.zeros_like(logits).scatter(-1, ids, kept.softmax(-1))
        assert_close(made, g.tensors["sampled.probabilities"][:, targets - 1], LIMIT)
        return (made / g.tensors["sampled.noise"][:, targets - 1]).argmax(-1)

    state.steps.choose = Guided(session.guidance, choose, g.preset.grid)
    list(session.extend(1, Decoding("ntp")))
    assert session.codes.reshape(2, -1).tolist() == g.tensors["sampled.tokens"].tolist()


def test_diagonals_make_an_image_in_fewer_steps():
    """Without a frame before it: what stands in is of the row above."""
    session, g = session_of(golden().preset.guided()), golden()
    for decoding in (Decoding("spatial", k=1, stand_in="newest"), Decoding("zipar", k=2)):
        session = session_of(g.preset.guided())
        steps = list(session.extend(1, decoding))
        assert len(steps) == 4 * decoding.k + 5 and session.codes.shape == (2, 1, 5, 5)


# ---- files and presets ---------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [lambda w: {"model": w, "steps": 3}, lambda w: w,
                                  lambda w: {**w, "freqs_cis": torch.zeros(3)}])  # fmt: skip
def test_files_as_training_leaves_them(tmp_path, wrap):
    """The state itself, or within a dictionary, with or without the rotary table."""
    torch.save(wrap(load_file(WEIGHTS)), tmp_path / "c2i.pt")
    config = golden().preset.transformer
    ours, theirs = (
        dict(transformer_tensors(path, config)) for path in (tmp_path / "c2i.pt", WEIGHTS)
    )
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(torch.cat(ours[name]), torch.cat(theirs[name]))


def test_other_files_are_refused(tmp_path):
    config, weights = golden().preset.transformer, load_file(WEIGHTS)
    for changed, told in (
        ({**weights, "cls_embedding.cap_proj.fc1.weight": torch.zeros(2, 2)},
         "holds a model of a text, t2i, and the preset is of a class, c2i"),
        ({**weights, "layers.0.extra": torch.zeros(2)}, "holds layers.0.extra"),
        ({k: v for k, v in weights.items() if "w3" not in k}, "lacks layers.0.feed_forward.w3"),
        ({**weights, "norm.weight": torch.zeros(3)}, r"norm.weight is \(3,\)"),
        ({**weights, "tok_embeddings.weight": torch.zeros(16384, 768),
          "cls_embedding.embedding_table.weight": torch.zeros(1001, 768)}, "vocab is 17385"),
    ):  # fmt: skip
        save_file(changed, tmp_path / "other.safetensors")
        with pytest.raises(WeightsError, match=told):
            transformer_tensors(tmp_path / "other.safetensors", config)
    turned = config.model_copy(update={"positions": Positions(kind="rope-2d")})
    with pytest.raises(WeightsError, match=r"No LlamaGen file fits transformer.positions.prefix"):
        transformer_tensors(WEIGHTS, turned)


COUNTS = {"b": 110_888_448, "l": 342_910_976, "xl": 774_699_520, "xxl": 1_410_972_672,
          "3b": 3_096_659_200, "t2i": 777_678_080 + 120 * 2048}  # fmt: skip


@pytest.mark.parametrize("name", OFFICIAL)
def test_shipped_presets_have_the_official_sizes(name):
    preset = load_preset(name)
    told = preset.transformer.model_dump()
    assert {key: told[key] for key in OFFICIAL[name]} == OFFICIAL[name]
    size = "t2i" if "t2i" in name else name.split("-")[2]
    assert transformer_parameters(preset.transformer, preset.positions) == COUNTS[size]
    side = int(name.split("-")[3]) // 16
    assert (preset.grid.h, preset.grid.w, preset.grid.prefix) == (
        side,
        side,
        120 if size == "t2i" else 1,
    )


def test_labels():
    preset = golden().preset
    assert preset.prefix_of(3) == (131,) and preset.prefix_of(None) == (138,)
    with pytest.raises(UsageError, match="The labels of golden are 0 to 9"):
        preset.prefix_of(10)
    with pytest.raises(UsageError, match="takes no labels"):
        load_preset("freedoom").prefix_of(1)
    with pytest.raises(UsageError, match="has no guidance"):
        load_preset("freedoom").guided(2.0)
