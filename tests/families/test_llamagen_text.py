"""LlamaGen's text-conditional Transformer against its official code: a text as the prefix, padded at
the left.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families.agreement import assert_close
from families.llamagen_golden import GUIDED_LIMIT, LIMIT, TEXT_WEIGHTS, WEIGHTS, golden
from safetensors.torch import load_file, save_file

from diagd_cli.clip.read import Clip
from diagd_cli.engine.filters import keep_top
from diagd_cli.engine.guided import Guided
from diagd_cli.engine.ring import Ring
from diagd_cli.errors import WeightsError
from diagd_cli.families.llamagen.checkpoint import transformer_tensors
from diagd_cli.model.mask import Mask
from diagd_cli.pipeline import continue_clips, load, start_session
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.tokens.caption import clean


@pytest.fixture(scope="module")
def loaded():
    own = golden("t2i")
    return load(own.preset, random=0, transformer=own.model)


def texts():
    """The features of the two texts, without what a text encoder leaves behind them."""
    tensors = golden("t2i").tensors
    both = zip(tensors["t5.embeddings"], tensors["t5.mask"], strict=True)
    return [rows[mask.bool()] for rows, mask in both]


def requests_of(loaded, method="ntp", **options):
    options = {"temperature": 0.0, "top_k": 0, **options}
    decoding = Decoding(method, stand_in="newest")
    return [loaded.request(text=text, decoding=decoding, **options) for text in texts()]


# ---- the Transformer -----------------------------------------------------------------------------


def mask():
    """Who sees whom, bool [2, S, S], of the two texts and their images."""
    g = golden("t2i")
    starts = 120 - g.tensors["caption.mask"].sum(1, keepdim=True)
    places = torch.arange(120 + g.tensors["ids"].shape[1])
    return Ring(g.preset.grid, len(places)).visible(places, places, starts)


def test_nobody_sees_what_the_official_code_hides():
    assert torch.equal(mask(), golden("t2i").tensors["attention_mask"])


@pytest.mark.parametrize("name", ["logits", "logits_null"])
def test_logits_with_a_text_and_with_none(name):
    """Of a whole pass, of what is padding too; the learned text is hidden where the own one is."""
    g, seen = golden("t2i"), []
    nothing = g.model.caption.nothing.expand(2, -1, -1)
    cross = g.model.cross_context(g.tensors["caption"] if name == "logits" else nothing)
    ids = torch.nn.functional.pad(g.tensors["ids"], (120, 0))
    hooks = [
        block.register_forward_hook(lambda module, args, output: seen.append(output))
        for block in g.model.blocks
    ]
    logits = g.model(ids, torch.arange(ids.shape[1]), Mask(visible=mask()), cross=cross)
    for hook in hooks:
        hook.remove()
    if name == "logits":
        for n, state in enumerate(seen):
            assert_close(state, g.tensors[f"hidden.layer{n}"], LIMIT)
    assert_close(logits, g.tensors[name], LIMIT)


# ---- images --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ntp", "exact"])
@pytest.mark.parametrize("name", ["greedy", "greedy_no_cfg", "greedy_interval"])
def test_images_are_the_official_ones(loaded, name, method):
    """With guidance, without, and with guidance of the first codes; two texts of 7 and 31 tokens,
    together and alone.
    """
    g, guided = golden("t2i"), 1.0 if name == "greedy_no_cfg" else None
    if name == "greedy_interval":
        tokens = g.facts["cfg_interval"] + 2
        own = g.preset.guidance.model_copy(update={"tokens": tokens})
        loaded = replace(loaded, preset=g.preset.model_copy(update={"guidance": own}))
    requests, clips = requests_of(loaded, method, guidance=guided), [Clip.nothing(Path("a"))] * 2
    together = continue_clips(loaded, clips, requests)
    assert [x.codes.ravel().tolist() for x in together] == g.tensors[f"{name}.tokens"].tolist()
    [alone] = continue_clips(loaded, clips[:1], requests[1:])
    assert alone.codes.tolist() == together[1].codes.tolist()


def stepped(loaded, choose, scale=None):
    """The codes int64 [2, N] that `choose` makes of the guided logits."""
    g = golden("t2i")
    none = torch.zeros(2, 0, 4, 4, dtype=torch.int64).numpy()
    session = start_session(loaded, none, requests_of(loaded, guidance=scale))
    state = session._go_on(Decoding("ntp"))
    state.steps.choose = Guided(session.guidance, choose, g.preset.grid)
    list(session.extend(1, Decoding("ntp")))
    return torch.from_numpy(session.codes.reshape(2, -1))


def test_guided_logits_of_every_step_are_the_official_ones(loaded):
    tensors, seen = golden("t2i").tensors, []

    def choose(logits, targets):
        seen.append(logits)
        return tensors["ids"][:, targets - 120]

    stepped(loaded, choose)
    assert_close(torch.cat(seen, dim=1), tensors["cached.cfg_logits"], GUIDED_LIMIT)


def test_draws_are_the_official_ones_by_their_noise(loaded):
    tensors, rules = golden("t2i").tensors, golden("t2i").facts["sampled"]

    def choose(logits, targets):
        made = keep_top(logits / rules["temperature"], rules["top_k"]).softmax(-1)
        assert_close(made, tensors["sampled.probabilities"][:, targets - 120], LIMIT)
        return (made / tensors["sampled.noise"][:, targets - 120]).argmax(-1)

    assert torch.equal(stepped(loaded, choose, rules["cfg_scale"]), tensors["sampled.tokens"])


# ---- files and prompts ---------------------------------------------------------------------------


def test_files_of_texts(tmp_path):
    config, weights = golden("t2i").preset.transformer, load_file(TEXT_WEIGHTS)
    shorter = {**weights, "cls_embedding.uncond_embedding": torch.zeros(77, 20)}
    for changed, told in (
        (load_file(WEIGHTS), "holds a model of a class, c2i, and the preset is of a text, t2i"),
        (shorter, r"cls_embedding.uncond_embedding is \(77, 20\)"),
        ({**weights, "cls_embedding.cap_proj.fc1.weight": torch.zeros(48, 8)}, "prefix_dim is 8"),
    ):
        save_file(changed, tmp_path / "other.safetensors")
        with pytest.raises(WeightsError, match=told):
            transformer_tensors(tmp_path / "other.safetensors", config)


@pytest.mark.parametrize(
    "prompt, words",
    [
        ("A Photo of a Cat, in Paris", "a photo of a cat, in paris"),
        ("<b>bold</b> &amp; plain, by @me: https://x.org/y.png", "bold plain, by"),
        ("“Quoted” — text... 猫", '"quoted" - text'),
        ("a (very) good dog!!", "a very good dog!!"),
        ("a-b-c_d-e", "a b c d e"),
        ("'whole'", "whole"),
        ("5 < 6", "5 < 6"),
        ("&lt;i&gt;", ""),
    ],
)
def test_prompts_are_cleaned(prompt, words):
    assert clean(prompt) == words and clean(words) == words
