"""Models as `transformers` saves them: ours has their logits, whichever kind and rotary rule, with
codes anywhere in the vocabulary. And what is not supported is refused by name.
"""

import functools
import json
import shutil

import numpy as np
import pytest
import torch
import transformers
import yaml
from families.agreement import assert_close
from safetensors.torch import load_file, save_file

from diagd_cli.errors import WeightsError
from diagd_cli.jobs.from_hf import FromHf, preset_from_hf
from diagd_cli.model.mask import EVERYTHING
from diagd_cli.preset_files import load_preset
from diagd_cli.weights.load import load_transformer

LIMIT = 1e-5
VOCAB, CODES, OFFSET = 61, 24, 20
GRID, LENGTH = (3, 4), 48
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": LENGTH,
    # weights of this size have logits near 1 and attention that is not uniform
    "initializer_range": 0.15,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 12}
LLAMA3 = {
    **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "original_max_position_embeddings": 16,
}
LONGROPE = {
    **{"rope_type": "longrope", "short_factor": [1.0, 1.1, 1.5, 2.0], "long_factor": [9.0] * 4},
    "original_max_position_embeddings": 64,
}
MODELS = {
    "llama": ("llama", {}),
    "llama-all-heads": ("llama", {"num_key_value_heads": 4, "rms_norm_eps": 1e-3}),
    "llama-attention-bias": ("llama", {"attention_bias": True}),
    "llama-mlp-bias": ("llama", {"mlp_bias": True}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama-head-dim": ("llama", {"head_dim": 12}),
    "llama-linear": ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 3.0}}),
    "llama-dynamic": ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}),
    "llama-3": ("llama", {"rope_scaling": LLAMA3, "rope_theta": 500000.0}),
    "llama-yarn": ("llama", {"rope_scaling": YARN}),
    "llama-yarn-whole": (
        "llama",
        {"rope_scaling": {**YARN, "truncate": False, "beta_fast": 6.0, "attention_factor": 1.3}},
    ),
    "llama-yarn-mscale": (
        "llama",
        {"rope_scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.4}},
    ),
    "llama-longrope": ("llama", {"rope_scaling": LONGROPE, "max_position_embeddings": 256}),
    "qwen2": ("qwen2", {"rope_theta": 1e6}),
    "qwen2-tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "mistral": ("mistral", {"head_dim": 16, "sliding_window": None}),
    "mistral-window": ("mistral", {"sliding_window": LENGTH}),
}


@functools.cache
def official(name):
    """A model of `transformers` with random weights, biases and norms included."""
    kind, changes = MODELS[name]
    config = transformers.AutoConfig.for_model(kind, **{**SIZES, **changes})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


@pytest.fixture
def saved(tmp_path):
    """Saves a model as the library does: saved("llama", max_shard_size="9KB") -> its folder."""

    def save(name="llama", **how):
        official(name).save_pretrained(tmp_path / name, **how)
        return tmp_path / name

    return save


def change(folder, **settings):
    """Change a config.json; None removes a key."""
    path = folder / "config.json"
    told = json.loads(path.read_text()) | settings
    path.write_text(json.dumps({key: value for key, value in told.items() if value != "-"}))


def asked(folder, **more):
    return FromHf(**{"folder": folder, "grid": GRID, "codes": CODES, "offset": OFFSET, **more})


# ---- the same model ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_the_librarys(name, saved):
    """Also from a cache, in an order that is not theirs."""
    theirs, preset = official(name), preset_from_hf(asked(saved(name)))
    model = load_transformer(preset)
    ids = torch.from_numpy(np.random.default_rng(0).integers(VOCAB, size=(2, LENGTH)))
    with torch.inference_mode():
        wanted = theirs((ids + OFFSET) % VOCAB).logits[..., OFFSET : OFFSET + CODES]
        logits = model(ids, torch.arange(LENGTH))
        assert wanted.std() > 0.2
        assert_close(logits[..., :CODES], wanted, LIMIT)
        cache = model.new_cache(2, LENGTH)
        model(ids[:, :-9], torch.arange(LENGTH - 9), cache=cache, extent=LENGTH - 9)
        late = [
            model(ids[:, [p]], torch.tensor([p]), EVERYTHING, cache, p + 1)
            for p in range(LENGTH - 9, LENGTH)
        ]
    assert_close(torch.cat(late, dim=1)[..., :CODES], wanted[:, -9:], LIMIT)
    assert preset.transformer.logits == CODES and not preset.transformer.tied  # no row for nothing


def test_an_output_layer_that_is_the_embedding_may_be_left_so(saved):
    """Its first rows are those that are copied otherwise."""
    preset = preset_from_hf(asked(saved("llama-tied")))
    whole = preset.transformer.model_copy(update={"outputs": 0, "tied": True})
    ids = torch.arange(LENGTH)[None] % VOCAB
    logits = [
        load_transformer(preset.model_copy(update={"transformer": config}))(ids, ids[0])
        for config in (preset.transformer, whole)
    ]
    assert logits[1].shape[-1] == VOCAB
    assert_close(logits[0], logits[1][..., :CODES], 1e-5)


@pytest.mark.parametrize("change", [{}, {"outputs": 0, "tied": True}])
def test_an_output_layer_that_should_be_the_embedding_and_is_another_is_refused(saved, change):
    folder = saved("llama-tied")
    preset = preset_from_hf(asked(folder))
    config = preset.transformer.model_copy(update=change)
    tensors = load_file(folder / "model.safetensors")
    head = tensors["model.embed_tokens.weight"].clone()
    save_file({**tensors, "lm_head.weight": head}, folder / "model.safetensors", {"format": "pt"})
    preset = preset_from_hf(asked(folder)).model_copy(update={"transformer": config})
    load_transformer(preset)
    head[0] += 1
    save_file({**tensors, "lm_head.weight": head}, folder / "model.safetensors", {"format": "pt"})
    preset = preset_from_hf(asked(folder)).model_copy(update={"transformer": config})
    with pytest.raises(WeightsError, match="not the embedding, as tie_word_embeddings says"):
        load_transformer(preset)


def test_greedy_frames_are_those_of_its_generate_where_all_but_codes_is_forbidden(
    saved, diagd, tmp_path
):
    """Through the command line: a preset, a clip of tokens, and NTP on it."""
    done = diagd(
        "presets", "from-hf", saved(max_shard_size="9KB"), "--grid", "3x4", "--codes", CODES,
        "--offset", OFFSET, "--prefix", "1,57", "--window", 3, "-o", tmp_path / "mine.yaml",
    )  # fmt: skip
    assert done.code == 0, done.err
    frame = np.random.default_rng(1).integers(CODES, size=(1, *GRID))
    np.savez(tmp_path / "walk.npz", codes=frame)
    done = diagd(
        "generate", tmp_path / "walk.npz", "-p", tmp_path / "mine.yaml", "--frames", 2,
        "--decoding", "ntp", "--temperature", 0, "-o", tmp_path / "out.npz",
    )  # fmt: skip
    assert done.code == 0, done.err
    with np.load(tmp_path / "out.npz") as file:
        made = file["codes"][1:]
    prompt = torch.tensor([[1, 57, *(frame.flatten() + OFFSET)]])
    others = [n for n in range(VOCAB) if not OFFSET <= n < OFFSET + CODES]
    theirs = official("llama").generate(
        prompt, max_new_tokens=24, do_sample=False, suppress_tokens=others,
        attention_mask=torch.ones_like(prompt), pad_token_id=0,
    )  # fmt: skip
    assert np.array_equal(made.flatten(), theirs[0, prompt.shape[1] :] - OFFSET)


def test_files_in_parts_are_read_and_packed(saved, diagd, tmp_path):
    """What packing gives away is the same model: as files as they are, and in our own form."""
    folder = saved(max_shard_size="9KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    preset = preset_from_hf(asked(folder))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(preset.model_dump(mode="json")))
    whole = load_transformer(preset)
    for bits, limit in ((16, 0.0), (8, 0.5)):
        done = diagd(
            "weights", "pack", tmp_path / "mine.yaml", "--bits", bits, "-o", tmp_path / f"{bits}"
        )
        assert done.code == 0, done.err
        packed = load_preset(tmp_path / f"{bits}" / "preset.yaml")
        assert packed.transformer_weights.offset == (OFFSET if bits == 16 else 0)
        again = load_transformer(packed)
        ids, places = torch.arange(12)[None], torch.arange(12)
        assert_close(again(ids, places), whole(ids, places), limit)


def test_a_tokenizer_of_a_preset_makes_its_codes_of_pixels(saved, tiny, diagd, tmp_path):
    out = tmp_path / "mine.yaml"
    done = diagd(
        "presets", "from-hf", saved(), "--grid", "2x3", "--offset", 30, "--tokenizer", tiny.preset,
        "-o", out,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert load_preset(out).tokenizer == load_preset(tiny.preset).tokenizer
    done = diagd("generate", tiny.clip, "-p", out, "--frames", 2, "-o", tmp_path / "a.mp4")
    assert done.code == 0 and (tmp_path / "a.mp4").is_file(), done.err


def test_a_preset_goes_to_stdout_and_its_window_is_what_the_model_was_trained_with(
    saved, diagd, tmp_path
):
    words = ("presets", "from-hf", saved(), "--grid", "3x4", "--codes", CODES)
    done = diagd(*words)
    (tmp_path / "mine.yaml").write_text(done.out)
    preset = load_preset(tmp_path / "mine.yaml")
    assert (preset.clip.window, preset.clip.context, preset.clip.frames) == (4, 1, 3)
    assert diagd("presets", "check", tmp_path / "mine.yaml").code == 0
    done = diagd(*words, "--window", 5)
    assert done.code == 0 and "the window is 60 tokens, and max_position_embeddings 48" in done.err


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"model_type": "gpt2"}, "a model of type 'gpt2'. diagd reads llama, mistral, qwen2, qwen3"),
        ({"model_type": ["llama"]}, "no model_type"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', and must be 'silu'"),
        ({"quantization_config": {"bits": 4}}, "its weights are quantised"),
        ({"layer_types": ["linear_attention"]}, "layer_types holds 'linear_attention'"),
        ({"rope_scaling": {"rope_type": "su"}}, "rope_type is 'su'. diagd has default, linear"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [1]}}, "rope_type is 'mrope'"),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope_type linear lacks factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": "2"}}, "rope: factor: Input should be"),
        ({"rope_scaling": {"mrope_section": [1]}}, "rope: mrope_section is not known"),
        ({"rope_scaling": {**LONGROPE, "short_factor": [1.0]}}, "short_factor has 1 numbers, and a head 8 channels"),
        ({"rope_scaling": [1]}, "rope_scaling is no mapping"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"rope_scaling": {**LONGROPE, "original_max_position_embeddings": 24}},
         "rope_type longrope reaches 24 tokens, the window 48"),
        ({"hidden_size": "-"}, "lacks hidden_size"),
        ({"hidden_size": 1e400}, "hidden_size: Input should be a valid integer"),
        ({"hidden_size": 1 << 40}, "hidden_size: Input should be less than or equal"),
        ({"num_hidden_layers": 3}, "lacks model.layers.2."),
        ({"num_hidden_layers": 1}, "holds model.layers.1."),
        ({"intermediate_size": 40}, "mlp.gate_proj.weight is (48, 32), the preset needs (40, 32)"),
        ({"num_key_value_heads": 3}, "must be a multiple of kv_heads"),
        ({"attention_bias": True}, "lacks model.layers.0.self_attn.k_proj.bias"),
    ],
)  # fmt: skip
def test_other_models_are_refused_by_name(saved, diagd, settings, told):
    folder = saved()
    change(folder, **settings)
    done = diagd("presets", "from-hf", folder, "--grid", "3x4", "--codes", CODES, "--window", 4)
    assert done.code == 2 and told in done.err, done.err
    assert done.err.startswith("error: ") and done.err.count("\n") == 1 and not done.out


@pytest.mark.parametrize("name", ["mistral-window", "llama-dynamic"])
def test_a_window_that_is_seen_in_part_or_by_other_angles_is_refused(saved, diagd, name):
    """Within it the model is the library's, as above."""
    words = ("presets", "from-hf", saved(name), "--grid", "3x4", "--codes", CODES)
    assert "window: 4" in diagd(*words).out
    done = diagd(*words, "--window", 5)
    assert done.code == 2 and "reaches 48 tokens, the window 60" in done.err, done.err


def test_the_index_names_files_beside_it_and_no_others(saved, diagd, tmp_path):
    folder = saved(max_shard_size="9KB")
    save_file(official("llama").state_dict(), tmp_path / "other.safetensors")
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    for name in (
        "../other.safetensors", str(tmp_path / "other.safetensors"), "a\\b.safetensors",
        "config.json", ".safetensors", "", "x\n.safetensors", 3, None,
    ):  # fmt: skip
        path.write_text(json.dumps({"weight_map": {**index["weight_map"], "lm_head.weight": name}}))
        done = diagd("presets", "from-hf", folder, "--grid", "3x4", "--codes", CODES)
        assert done.code == 2 and "model.safetensors.index.json names" in done.err, done.err
    path.write_text(json.dumps({"weight_map": {"a": "model-9.safetensors"}}))
    done = diagd("presets", "from-hf", folder, "--grid", "3x4", "--codes", CODES)
    assert done.code == 2 and "lacks model-9.safetensors" in done.err


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]", "{}", '{"weight_map": 1}', "\xff"])
def test_damaged_files_of_settings(saved, diagd, text):
    folder = saved(max_shard_size="9KB")
    for name in ("config.json", "model.safetensors.index.json"):
        before = (folder / name).read_bytes()
        (folder / name).write_text(text, encoding="latin-1")
        done = diagd("presets", "from-hf", folder, "--grid", "3x4", "--codes", CODES)
        assert done.code == 2 and f"{folder / name}" in done.err, done.err
        (folder / name).write_bytes(before)


def test_pickles_are_never_read(saved, diagd):
    folder = saved()
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    done = diagd("presets", "from-hf", folder, "--grid", "3x4", "--codes", CODES)
    assert done.code == 2
    assert "has its weights pickled (pytorch_model.bin). Save the model as safetensors" in done.err


def test_ids_that_the_vocabulary_has_not(saved, diagd):
    folder = saved()
    for words, told in (
        (("--offset", 40), "24 codes from 40 on end at 64, and the vocabulary has 61 tokens"),
        (("--prefix", "61"), "The prefix has 61, and the vocabulary 61 tokens"),
        (("--tokenizer", "vavim-s"), "The tokenizer of vavim-s has 16384 codes"),
    ):
        done = diagd("presets", "from-hf", folder, "--grid", "3x4", "--codes", CODES, *words)
        assert done.code == 2 and told in done.err, done.err
    done = diagd("presets", "from-hf", folder, "--grid", "3x4")
    assert done.code == 2 and "Give --codes or --tokenizer" in done.err
    done = diagd("presets", "from-hf", folder, "--grid", "3*4", "--codes", CODES)
    assert done.code == 2 and "is not ROWSxCOLUMNS" in done.err


def test_a_preset_of_its_own_keeps_to_config_json(saved, diagd, tmp_path):
    """Another base, or norm, would load, and be another model."""
    preset = preset_from_hf(asked(saved()))
    settings = preset.model_dump(mode="json")
    settings["transformer"]["norm_eps"] = 0.5
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings))
    done = diagd("weights", "check", tmp_path / "mine.yaml")
    assert done.code == 1 and "norm_eps is 1e-06 in the file, 0.5 in the preset" in done.out
    settings = preset.model_dump(mode="json")
    settings["transformer_weights"]["format"] = "vavim"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(settings))
    done = diagd("presets", "check", tmp_path / "mine.yaml")
    assert done.code == 2 and "format vavim has its codes in front, offset must be 0" in done.err


def test_a_file_that_exists_is_kept(saved, diagd, tmp_path):
    (tmp_path / "mine.yaml").write_text("mine")
    words = ("presets", "from-hf", saved(), "--grid", "3x4", "--codes", CODES, "-o")
    assert diagd(*words, tmp_path / "mine.yaml").code == 1
    shutil.rmtree(tmp_path / "llama")
    assert diagd(*words, tmp_path / "mine.yaml", "--force").code == 2
    assert (tmp_path / "mine.yaml").read_text() == "mine"
