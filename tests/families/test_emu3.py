"""Emu3 as `transformers` has it, tiny and random: our logits, codes, pictures, and whole guided
images are its own, whatever the generation of names in its files.
"""

import functools
import json
import re

import numpy as np
import pytest
import torch
import transformers
from families.agreement import assert_close
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from diagd_cli.families.emu3.config import Emu3VqConfig
from diagd_cli.families.emu3.memory import parameters
from diagd_cli.jobs.from_hf import FromHf, preset_from_hf
from diagd_cli.preset_files import load_preset
from diagd_cli.weights.load import build_tokenizer, load_tokenizer, load_transformer

LIMIT = 1e-5
VOCAB, CODES, OFFSET = 60, 16, 30
BOS, BOI, IMG, EOL, EOF, EOI, EOS = 1, 23, 25, 21, 22, 24, 2
GRID = (2, 3)
WORDS = {
    "?": 3,
    "*": 4,
    "2": 5,
    "3": 6,
    **{letter: 7 + n for n, letter in enumerate("abcdefghijk")},
}
TEMPLATE = f"<{BOS}>{{text}}<{BOI}>{{h}}*{{w}}<{IMG}>"
VQ = {
    **{
        "codebook_size": CODES,
        "base_channels": 32,
        "channel_multiplier": [1, 2],
        "hidden_size": 64,
    },
    **{"num_res_blocks": 1, "attn_resolutions": [1]},
}
TEXT = {
    **{"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128},
    **{"pad_token_id": 0, "bos_token_id": BOS, "eos_token_id": EOS, "initializer_range": 0.15},
}


@functools.cache
def official():
    """Their model with random weights, norms and the statistics of batch norms included."""
    visual = {f"<|visual token {n:06d}|>": OFFSET + n for n in range(CODES)}
    names = {"<image>": 20, "<|extra_200|>": EOL, **visual}
    config = transformers.Emu3Config(text_config=TEXT, vq_config=VQ, vocabulary_map=names)
    torch.manual_seed(0)
    model = transformers.Emu3ForConditionalGeneration(config).eval()
    with torch.no_grad():
        model.model.vqmodel.quantize.embedding.weight.normal_()
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
        for name, statistic in model.named_buffers():
            if "running" in name:
                statistic.add_(torch.rand_like(statistic))
    return model


def write_words(folder):
    """A tokenizer of text, an id a character."""
    words = Tokenizer(models.WordLevel(WORDS, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    words.save(str(folder / "tokenizer.json"))


def newer(name):
    """Since 4.52 of the library."""
    if name.startswith("vqmodel."):
        return f"model.{name}"
    return name.replace("text_model.lm_head", "lm_head").replace(
        "text_model.model", "model.text_model"
    )


def baai(name):
    """As BAAI/Emu3-VisionTokenizer calls its tensors, by the fact sheet of both."""
    for pattern, theirs in (
        (r"\.down_block\.down", ".down"),
        (r"\.up_block\.up", ".up"),
        (r"\.middle_block", ".mid"),
        (r"\.mid\.attn_norm\.", ".mid.attn_1.norm."),
        (r"\.attn_norms\.(\d+)\.", r".attn.\1.norm."),
        (r"\.([qkv])_proj\.", r".\1."),
        (r"\.out_proj\.", ".proj_out."),
    ):
        name = re.sub(pattern, theirs, name)
    return name


@pytest.fixture
def folder(tmp_path):
    where = tmp_path / "Emu3"
    official().save_pretrained(where)
    write_words(where)
    return where


def rename(folder, change):
    path = folder / "model.safetensors"
    save_file({change(name): x for name, x in load_file(path).items()}, path)


def asked(folder, **more):
    given = {"folder": folder, "grid": GRID, "offset": OFFSET, "row_end": (EOL,), "context": 0}
    return FromHf(**{**given, "template": TEMPLATE, "prompt_length": 20, **more})


@pytest.mark.parametrize("names", ["until 4.51", "since 4.52"])
def test_logits_codes_and_pictures_are_the_librarys(folder, names):
    if names == "since 4.52":
        rename(folder, newer)
    preset, theirs = preset_from_hf(asked(folder)), official()
    assert (preset.tokenizer.kind, preset.tokenizer.codebook) == ("emu3-vq", CODES)
    ids = torch.from_numpy(np.random.default_rng(0).integers(VOCAB, size=(2, 30)))
    with torch.inference_mode():
        wanted = theirs((ids + OFFSET) % VOCAB).logits[..., OFFSET : OFFSET + CODES]
        assert wanted.std() > 0.2
        assert_close(load_transformer(preset)(ids, torch.arange(30)), wanted, LIMIT)
    assert_the_same_tokenizer(load_tokenizer(preset))


def assert_the_same_tokenizer(ours):
    vq, rng = official().model.vqmodel, np.random.default_rng(1)
    frames = torch.from_numpy(rng.integers(0, 256, (3, 6, 8, 3), dtype=np.uint8))
    with torch.inference_mode():
        pixels = (frames.movedim(-1, 1) / 255 - 0.5) / 0.5
        codes = torch.stack(vq.encode(pixels, image_sizes=torch.tensor([[6, 8]] * 3)).image_tokens)
        assert len(codes.unique()) > 3 and torch.equal(ours.encode(frames), codes)
        shown = ((vq.decode(codes) * 0.5 + 0.5) * 255).clamp(0, 255).to(torch.uint8)
    made = ours.decode(codes)
    assert made.shape == frames.shape and made.float().std() > 10
    assert (made.int() - shown.movedim(1, -1).int()).abs().max() <= 1  # at a rounding's edge


@pytest.mark.parametrize("names", ["vqmodel alone", "BAAI"])
def test_tokenizers_of_their_own_files(folder, tmp_path, names):
    """`Emu3VQVAE` as the library saves it, and the names of BAAI's own code, kernels of 1x1
    included.
    """
    found = {
        n.removeprefix("vqmodel."): x for n, x in load_file(folder / "model.safetensors").items()
    }
    found = {name: x for name, x in found.items() if not name.startswith("text_model.")}
    if names == "BAAI":
        found = {
            baai(n): x[..., None, None].clone() if n.endswith("_proj.weight") else x
            for n, x in found.items()
        }
    save_file(found, tmp_path / "vq.safetensors")
    preset = preset_from_hf(asked(folder))
    assert_the_same_tokenizer(load_tokenizer(preset, files=[tmp_path / "vq.safetensors"]))


def test_guided_images_are_those_of_its_generate(folder, diagd, tmp_path):
    """Next-token prediction by the command line, with a negative prompt of another length: the
    tokens of `generate` under the constraint of the grid, and the picture of its tokenizer.
    """
    done = diagd(
        "presets", "from-hf", folder, "--grid", "2x3", "--offset", OFFSET, "--row-end", EOL,
        "--context", 0, "--template", TEMPLATE, "--wording", "{text} ab", "--prompt-length", 20,
        "--guidance", 3, "--negative-prompt", "gh", "-o", tmp_path / "emu.yaml",
    )  # fmt: skip
    assert done.code == 0, done.err
    done = diagd(
        "generate", "-p", tmp_path / "emu.yaml", "--prompt", "abcf", "--decoding", "ntp",
        "--temperature", 0, "--save-tokens", "-o", tmp_path / "a.png",
    )  # fmt: skip
    assert done.code == 0, done.err
    with np.load(tmp_path / "a.npz") as file:
        codes = torch.from_numpy(file["codes"])

    h, w = GRID
    frame = [BOI, *(WORDS[letter] for letter in f"{h}*{w}"), IMG]
    own, away = ([BOS, *(WORDS.get(x, 3) for x in text), *frame] for text in ("abcf ab", "gh"))
    last = [EOF, EOI, EOS]

    def allowed(_, ids):
        place = len(ids) - len(own)
        if place >= h * (w + 1):
            return [last[place - h * (w + 1)]]
        return [EOL] if place % (w + 1) == w else list(range(OFFSET, OFFSET + CODES))

    model = official()
    made = model.generate(
        input_ids=torch.tensor([own]), attention_mask=torch.ones(1, len(own), dtype=torch.int64),
        negative_prompt_ids=torch.tensor([away]), guidance_scale=3.0, do_sample=False,
        negative_prompt_attention_mask=torch.ones(1, len(away), dtype=torch.int64),
        prefix_allowed_tokens_fn=allowed, max_new_tokens=h * (w + 1) + 3, pad_token_id=0,
    )[0, len(own) :]  # fmt: skip
    theirs = made[: h * (w + 1)].view(h, w + 1)[:, :w] - OFFSET
    assert torch.equal(codes[0], theirs)
    with torch.inference_mode():
        picture = model.model.decode_image_tokens(made[None], height=h, width=w)
    shown = ((picture[0] * 0.5 + 0.5) * 255).clamp(0, 255).to(torch.uint8).movedim(0, -1)
    pixels = np.asarray(Image.open(tmp_path / "a.png")).astype(int)
    assert np.abs(pixels - shown.numpy()).max() <= 1
    told = json.loads((tmp_path / "a.json").read_text())
    assert (told["prompt"], told["negative_prompt"]) == ("abcf", "gh")


def test_along_diagonals_it_takes_the_steps_that_were_announced(folder, diagd, tmp_path):
    """Row ends cost none; a batch of prompts of different length gives each the image that it gets
    alone.
    """
    (tmp_path / "emu.yaml").write_text(preset_text_of(folder))
    words = ("generate", "-p", tmp_path / "emu.yaml", "--k", 1, "--seed", 3, "--save-tokens")
    images = []
    for name, prompt in (("a", "ab"), ("b", "abcdefg")):
        done = diagd(*words, "--prompt", prompt, "-o", tmp_path / f"{name}.png")
        assert done.code == 0, done.err
        assert json.loads((tmp_path / f"{name}.json").read_text())["steps"] == (2 - 1) * 1 + 3
        with np.load(tmp_path / f"{name}.npz") as file:
            images.append(file["codes"].tolist())
    assert images[0] != images[1]
    plan = diagd("plan", "-p", tmp_path / "emu.yaml", "--k", 1)
    assert "the known end of a row starts the next one" in plan.out and "in 4 steps" in plan.out


def preset_text_of(folder):
    from diagd_cli.preset_files import preset_text

    return preset_text(preset_from_hf(asked(folder, guidance=2.0, negative="k")))


@pytest.mark.parametrize(
    "config",
    [
        Emu3VqConfig(),
        Emu3VqConfig(channels=32, multipliers=(2, 3, 1), blocks=3, latent=6, code_dim=5),
    ],
)
def test_parameters_are_counted_without_building(config, folder):
    preset = preset_from_hf(asked(folder)).model_copy(update={"tokenizer": config})
    built = build_tokenizer(preset, "meta")
    assert sum(p.numel() for p in built.parameters()) == parameters(config)


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"template": "<1>"}, "must have one {text}"),
        ({"row_end": (60,)}, "The row end has 60, and the vocabulary 60 tokens"),
        ({"frame_end": (99,)}, "The frame end has 99"),
        ({"prefix": (1,)}, "--prefix and --template both say what is first"),
        ({"template": None, "prefix": (1,), "guidance": 2.0}, "there is no --template"),
        ({"template": "<60>{text}"}, "is below the 61 tokens in use"),
        ({"prompt_length": 2}, "template has 3 ids, and length is 2"),
    ],
)
def test_what_does_not_fit(folder, more, told):
    with pytest.raises(Exception, match=re.escape(told)):
        preset_from_hf(asked(folder, **more))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model": 1}', "\0"])
def test_a_damaged_tokenizer_of_text(folder, diagd, text):
    (folder / "tokenizer.json").write_text(text)
    done = diagd("presets", "from-hf", folder, "--grid", "2x3", "--offset", OFFSET, "--context", 0,
                 "--template", TEMPLATE, "--prompt-length", 20)  # fmt: skip
    assert done.code == 2 and "tokenizer.json is no tokenizer.json" in done.err, done.err
    assert done.err.count("\n") == 1


def test_other_tokenizers_of_pictures_are_refused(folder, diagd):
    path = folder / "config.json"
    told = json.loads(path.read_text())
    told["vq_config"]["attn_resolutions"] = [0]
    path.write_text(json.dumps(told))
    done = diagd("presets", "from-hf", folder, "--grid", "2x3", "--offset", OFFSET, "--context", 0,
                 "--template", TEMPLATE, "--prompt-length", 20)  # fmt: skip
    assert done.code == 2 and "vq_config.attn_resolutions is [0]" in done.err


def test_a_prompt_that_is_too_long_and_one_without_its_file(folder, diagd, tmp_path):
    (tmp_path / "emu.yaml").write_text(preset_text_of(folder))
    words = ("generate", "-p", tmp_path / "emu.yaml", "-o", tmp_path / "a.png", "--prompt")
    done = diagd(*words, "a" * 99)
    assert done.code == 2 and "The prompt makes 105 tokens" in done.err, done.err
    (folder / "tokenizer.json").unlink()
    done = diagd(*words, "a")
    assert done.code == 1 and "The prompt weights of Emu3 are missing" in done.err, done.err
    assert load_preset(tmp_path / "emu.yaml").prompt.length == 20
