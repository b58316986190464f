"""SimpleAR: a Qwen2 with a tied embedding, prompts, guidance, and Cosmos' tokenizer on one frame.
Tiny and random, its images are those of `transformers`, which guides in log-softmax space.
"""

import functools
import json

import numpy as np
import pytest
import torch
import transformers
from families.agreement import assert_close
from families.small import write_small, write_small_models
from PIL import Image
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from diagd_cli.families.huggingface.settings import read_settings, transformer_config
from diagd_cli.preset_files import load_preset
from diagd_cli.weights.load import load_tokenizer, load_transformer

CODES, OFFSET, VOCAB = 64, 20, 84
T2I, SOI = 13, 15
WORDS = {"?": 0, **{letter: 1 + n for n, letter in enumerate("abcdefgh")}}
GRID = (2, 3)


@functools.cache
def official():
    config = transformers.Qwen2Config(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, rope_theta=1e6,
        tie_word_embeddings=True, initializer_range=0.15, bos_token_id=None, eos_token_id=None,
        pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Qwen2ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    """A preset whose tokenizer of 8 frames a latent one has 64 codes."""
    folder = tmp_path_factory.mktemp("codec")
    return write_small_models("cosmos-4b", folder, tokenizer=CODEC)


CODEC = {"channels": 8, "multipliers": [1, 2, 2], "blocks": 1, "levels": [2] * 6}


@pytest.fixture
def preset(tmp_path, codec, diagd):
    folder = tmp_path / "SimpleAR"
    official().save_pretrained(folder)
    told = json.loads((folder / "config.json").read_text())
    told |= {"architectures": ["SimpARForCausalLM"], "model_type": "something"}
    (folder / "config.json").write_text(json.dumps(told))
    words = Tokenizer(models.WordLevel(WORDS, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    words.save(str(folder / "tokenizer.json"))
    done = diagd(
        "presets", "from-hf", folder, "--grid", "2x3", "--offset", OFFSET, "--tokenizer", codec,
        "--context", 0, "--template", f"<{T2I}>{{text}}<{SOI}>", "--wording", "ab{text}",
        "--prompt-length", 16, "--guidance", 6, "--negative-prompt", "gh", "-o", tmp_path / "s.yaml",
    )  # fmt: skip
    assert done.code == 0, done.err
    return tmp_path / "s.yaml"


def test_logits_are_those_of_qwen2(preset):
    ids = torch.from_numpy(np.random.default_rng(0).integers(VOCAB, size=(2, 30)))
    with torch.inference_mode():
        wanted = official()((ids + OFFSET) % VOCAB).logits[..., OFFSET:]
        made = load_transformer(load_preset(preset))(ids, torch.arange(30))[..., :CODES]
        assert wanted.std() > 0.2
        assert_close(made, wanted, 1e-5)


def test_guided_images_are_those_of_its_generate(preset, diagd, tmp_path):
    """By next-token prediction, greedy, the prompt longer than the negative one."""
    done = diagd(
        "generate", "-p", preset, "--prompt", "cdef", "--decoding", "ntp", "--temperature", 0,
        "--save-tokens", "-o", tmp_path / "a.png",
    )  # fmt: skip
    assert done.code == 0, done.err
    own, away = ([T2I, *(WORDS[x] for x in text), SOI] for text in ("abcdef", "gh"))
    made = official().generate(
        input_ids=torch.tensor([own]), attention_mask=torch.ones(1, len(own), dtype=torch.int64),
        negative_prompt_ids=torch.tensor([away]), guidance_scale=6.0, do_sample=False,
        negative_prompt_attention_mask=torch.ones(1, len(away), dtype=torch.int64),
        suppress_tokens=list(range(OFFSET)), max_new_tokens=6,
    )[0, len(own) :]  # fmt: skip
    with np.load(tmp_path / "a.npz") as file:
        codes = file["codes"]
    assert (codes.ravel() == (made - OFFSET).numpy()).all()
    frames = load_tokenizer(load_preset(preset)).decode(torch.from_numpy(codes))
    pixels = np.asarray(Image.open(tmp_path / "a.png"))
    assert frames.shape == (1, 32, 48, 3) and (pixels == frames[0].numpy()).all()


def test_scales_prompts_and_seeds_make_other_images(preset, diagd, tmp_path):
    """And `--negative-prompt` another than the preset's."""
    seen = []
    for words in (
        ["--prompt", "c"],
        ["--prompt", "d"],
        ["--prompt", "c", "--guidance", 1],
        ["--prompt", "c", "--negative-prompt", "ff"],
        ["--prompt", "c", "--seed", 2],
    ):
        out = ("--save-tokens", "--force", "-o", tmp_path / "a.png")
        done = diagd("generate", "-p", preset, "--seed", 1, *words, *out)
        assert done.code == 0, done.err
        with np.load(tmp_path / "a.npz") as file:
            seen.append(file["codes"].tolist())
    assert all(seen.count(one) == 1 for one in seen)
    done = diagd("generate", "-p", preset, "-o", tmp_path / "b.png")
    assert done.code == 2 and "needs a prompt" in done.err and "--prompt TEXT" in done.err
    done = diagd("generate", "-p", preset, "--prompt-embedding", tmp_path / "b.safetensors")
    assert done.code == 2 and "reads words, and no embedding" in done.err


def test_a_packed_preset_has_all_that_it_needs(preset, diagd, tmp_path):
    """Its own tokenizer of text included."""
    for bits in (16, 8):
        folder = tmp_path / f"{bits}"
        done = diagd("weights", "pack", preset, "--bits", bits, "-o", folder)
        assert done.code == 0, done.err
        assert (folder / "prompt.json").is_file()
        done = diagd(
            "generate", "-p", folder / "preset.yaml", "--prompt", "c", "-o", folder / "a.png"
        )
        assert done.code == 0, done.err


# ---- the shipped presets -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["emu3-gen", "simplear-0.5b", "simplear-1.5b"])
def test_shipped_presets_make_images_of_nothing_with_random_weights(name, diagd, tmp_path):
    path = write_small(name, tmp_path)
    words = ("generate", "-p", path, "--random-weights", "--seed", 1, "--k", 1, "--json")
    done = diagd(*words, "-o", tmp_path / "a.png")
    assert done.code == 0, done.err
    h, w = load_preset(path).grid.h, load_preset(path).grid.w
    assert (done.objects[0]["steps"], done.objects[0]["tokens"]) == (h - 1 + w, h * w)
    assert Image.open(tmp_path / "a.png").size == (
        load_preset(path).clip.width,
        load_preset(path).clip.height,
    )
    done = diagd(*words, "--prompt", "a dog", "-o", tmp_path / "b.png")
    assert done.code == 1 and f"The prompt weights of {name} are missing" in done.err
    assert f"diagd weights pull {path}" in done.err


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("emu3-gen", transformers.Emu3TextConfig()),
        (
            "simplear-0.5b",
            transformers.Qwen2Config(
                vocab_size=215672, hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
                num_attention_heads=14, num_key_value_heads=2, rope_theta=1e6,
                tie_word_embeddings=True,
            ),
        ),
        (
            "simplear-1.5b",
            transformers.Qwen2Config(
                vocab_size=215672, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28,
                num_attention_heads=12, num_key_value_heads=2, rope_theta=1e6,
                tie_word_embeddings=True,
            ),
        ),
    ],
)  # fmt: skip
def test_shipped_presets_are_what_their_config_would_say(name, made, tmp_path):
    """Emu3's is the library's default."""
    (tmp_path / "config.json").write_text(json.dumps(made.to_dict()))
    settings = read_settings(tmp_path / "config.json")
    preset = load_preset(name)
    own = transformer_config(tmp_path / "config.json", settings, preset.tokenizer.codebook)
    assert own == preset.transformer
    assert preset.grid.length(1) <= settings.max_position_embeddings
