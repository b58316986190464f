"""MineWorld against numbers of its official code: logits, codes, pixels, sampling and actions.

`golden/mineworld/README.md` tells what the numbers are. Decoding is in test_mineworld_traces.py.
"""

import json

import pytest
import torch
from families.agreement import TOLERANCE, assert_close
from families.mineworld_golden import (
    CODES,
    CONFIG,
    GRID,
    TOKENIZER_CONFIG,
    empty_cache,
    facts,
    tensors,
    tokenizer,
    transformer,
)

from diagd_cli.engine.decode import prefill
from diagd_cli.engine.filters import keep_top
from diagd_cli.engine.sample import Sampler, Sampling
from diagd_cli.errors import UsageError
from diagd_cli.families.mineworld.actions import (
    MinecraftActions,
    read_minecraft_actions,
    recorded_action,
)
from diagd_cli.families.mineworld.config import VqImageConfig
from diagd_cli.families.mineworld.tokenizer import VqImageTokenizer, to_frames, to_pixels
from diagd_cli.model.mask import EVERYTHING, Mask
from diagd_cli.model.positions import signed

IO, VAE, DRAWS, ACTIONS = (
    tensors("transformer_io"),
    tensors("vae_io"),
    tensors("sampling"),
    facts("actions"),
)
ids, positions = IO["input_ids"], IO["position_ids"]

# ---- the Transformer -----------------------------------------------------------------------------


@torch.inference_mode()
def test_logits_of_a_full_pass():
    seen = {}
    modules = [*transformer().blocks, transformer().norm]
    names = [*(f"hidden_layer_{n}" for n in range(CONFIG.layers)), "hidden_final_norm"]
    hooks = [
        module.register_forward_hook(
            lambda _, __, output, name=name: seen.update({name: output[0]})
        )
        for module, name in zip(modules, names, strict=True)
    ]
    logits = transformer()(ids[None], positions)[0]
    for hook in hooks:
        hook.remove()
    for name in names:
        assert_close(seen[name], IO[name])
    assert_close(logits, IO["logits"])


@torch.inference_mode()
def test_logits_token_by_token_through_the_cache():
    cache, rows, last = empty_cache(), [], int(positions[-1])
    prefill(transformer(), cache, ids[None], positions[: GRID.block].numpy(), chunk=5)
    for p in range(GRID.block, last + 1):
        rows.append(
            transformer()(ids[None, [p]], positions[[p]], EVERYTHING, cache, extent=p + 1)[0, 0]
        )
    assert_close(torch.stack(rows), IO["logits"][GRID.block :])


@pytest.mark.parametrize("masked", [True, False])
@torch.inference_mode()
def test_logits_where_slots_before_them_are_empty(masked):
    cache, known, fed = empty_cache(), len(IO["sparse_prefix_ids"]), IO["sparse_position_ids"]
    prefill(transformer(), cache, IO["sparse_prefix_ids"][None], positions[:known].numpy())
    extent = int(fed.max()) + 1
    slots = torch.arange(extent)
    mask = slots <= fed[:, None]
    if masked:
        mask &= (slots < known) | torch.isin(slots, fed)
    logits = transformer()(IO["sparse_input_ids"][None], fed, Mask(visible=mask), cache, extent)[0]
    assert_close(logits, IO["sparse_logits_unwritten_masked" if masked else "sparse_logits"])


@pytest.mark.parametrize("name", ["cos", "sin"])
def test_rotary_tables(name):
    theirs = IO[f"rope_{name}"]
    cos, sin = transformer().rotary(torch.arange(len(theirs)), torch.float32)
    # signed twice is as it was
    assert_close((cos if name == "cos" else signed(sin))[:, 0], theirs)


# ---- the tokenizer -------------------------------------------------------------------------------


@torch.inference_mode()
def test_codes():
    latents = tokenizer().embed(to_pixels(VAE["image_uint8"], VAE["latent"]))
    assert_close(latents, VAE["latent"])
    assert tokenizer().encode(VAE["image_uint8"]).equal(VAE["indices"])
    assert tokenizer().codebook == TOKENIZER_CONFIG.codebook


@torch.inference_mode()
def test_pixels(record_property):
    codes = torch.cat([VAE["indices"], VAE["random_indices"]])
    assert_close(tokenizer().decode_pixels(codes), VAE["decoded"])
    # the conversion is theirs, bit for bit
    assert to_frames(VAE["decoded"]).equal(VAE["decoded_uint8"])

    frames, theirs = tokenizer().decode(codes), VAE["decoded_uint8"]
    exact = ((VAE["decoded"].double().clamp(-1, 1) + 1) / 2 * 255).movedim(1, -1)
    # the last bits decide which way it is cut off
    on_the_edge = (exact - exact.round()).abs() < TOLERANCE * 255 / 2
    assert frames[~on_the_edge].equal(theirs[~on_the_edge])
    assert (frames.int() - theirs.int()).abs().max() <= 1
    rounded = [
        ((pixels.clamp(-1, 1) + 1) / 2 * 255).round()
        for pixels in (VAE["decoded"], tokenizer().decode_pixels(codes))
    ]
    assert rounded[0].equal(rounded[1])
    record_property("bytes that differ", f"{int((frames != theirs).sum())} of {frames.numel()}")


def test_the_tokenizer_refuses_frames_of_other_sizes():
    with pytest.raises(ValueError, match="sides of 16n"):
        tokenizer().encode(torch.zeros(1, 64, 90, 3, dtype=torch.uint8))


@pytest.mark.parametrize("code_dim", [0, 6])
def test_other_depths_and_widths(code_dim):
    config = VqImageConfig(
        codebook=11, channels=(4, 8), blocks=1, latent=4, code_dim=code_dim, groups=2
    )
    model = VqImageTokenizer(config)
    torch.nn.init.normal_(model.quantize["embedding"].weight)
    codes = model.encode(torch.randint(0, 256, (3, 6, 10, 3), dtype=torch.uint8))
    assert codes.shape == (3, 3, 5) and 0 < codes.max() < model.codebook == 11
    assert model.decode(codes).shape == (3, 6, 10, 3)


# ---- sampling ------------------------------------------------------------------------------------


def sampling_of(name: str) -> Sampling:
    """From a name such as top_p0.8_temp1.0."""
    kind, temperature = name.split("_temp")
    top_p = float(kind[5:]) if kind.startswith("top_p") else 1.0
    top_k = int(kind[5:]) if kind.startswith("top_k") else 0
    return Sampling(CODES, float(temperature), top_k, top_p)


@pytest.mark.parametrize(
    "name", sorted(key[: -len(".probs")] for key in DRAWS if key.endswith(".probs"))
)
def test_sampling(name, record_property, monkeypatch):
    sampling, noise = sampling_of(name), DRAWS["noise_exponential"]
    logits = DRAWS["logits"][:, :CODES] / sampling.temperature
    probabilities = keep_top(logits, sampling.top_k, sampling.top_p).softmax(-1)
    theirs = DRAWS[f"{name}.probs"]
    # at top_p 1 the official filter drops tokens of the tail, where the mass before them, a float32
    # sum, exceeds 1
    tail = probabilities < (1e-6 if (sampling.top_p, sampling.top_k) == (1, 0) else 0)
    assert (probabilities > 0)[~tail].equal((theirs > 0)[~tail])
    record_property(
        "tokens of the tail that we keep", int(((probabilities > 0) & (theirs == 0)).sum())
    )
    assert_close(probabilities, theirs)

    if name.startswith("top_p"):  # there, noise j belongs to the j-th most probable token
        noise = torch.empty_like(noise).scatter(
            -1, logits.sort(dim=-1, descending=True).indices, noise
        )

    def gumbel(self, keys, ids):  # -log(Exp(1) noise) is Gumbel noise
        return -noise.log().gather(-1, ids.expand(1, len(noise), -1)[0])

    monkeypatch.setattr(Sampler, "_gumbel", gumbel)
    sampler = Sampler(sampling, [0])
    drawn = sampler(DRAWS["logits"][None], torch.arange(len(noise)))[0]
    assert drawn.equal(DRAWS[f"{name}.tokens_with_noise"])


def test_greedy():
    sampler = Sampler(Sampling(CODES, 0.0), [0])
    assert sampler(DRAWS["logits"][None], torch.arange(12))[0].equal(DRAWS["greedy.tokens"])


# ---- actions -------------------------------------------------------------------------------------


def test_the_action_vocabulary():
    actions, other = MinecraftActions(), MinecraftActions(offset=256)
    assert actions.ids == ACTIONS["vocab"]
    assert actions.size == len(ACTIONS["slots"]) and actions.bins == ACTIONS["quantizer"]["bins"]
    assert other.ids == {name: token - 8192 + 256 for name, token in ACTIONS["vocab"].items()}


def test_camera_bins():
    actions = MinecraftActions()
    assert [actions.camera_bin(degrees) for degrees in ACTIONS["camera_values"]] == ACTIONS[
        "camera_bins"
    ]
    centres = [actions.camera_degrees(n) for n in range(actions.bins)]
    assert centres == pytest.approx(ACTIONS["bin_centres_degrees"], abs=1e-9)


@pytest.mark.parametrize("case", ACTIONS["cases"], ids=lambda case: case["name"])
def test_action_tokens(case):
    actions = MinecraftActions(offset=ACTIONS["vocab_offset"])
    assert actions.encode(case["action"]) == case["indices"]
    assert actions.encode(actions.decode(case["indices"])) == case["indices"]


def test_recorder_lines():
    for case in ACTIONS["raw_cases"]:
        action, null = recorded_action(case["raw"])
        assert (action, null) == (case["env_action"], case["is_null"])
        assert MinecraftActions().encode(action) == case["indices"]


def test_a_file_of_actions_in_all_spellings(tmp_path):
    first, *others = [case["action"] for case in ACTIONS["cases"][:4]]
    numpy = str({**others[0], "camera": "@"}).replace("'@'", "array([ 1. , -2.5], dtype=float32)")
    lines = [
        json.dumps(first),
        numpy,
        str({**others[1], "camera": (3, 4)}),
        json.dumps(ACTIONS["raw_cases"][1]["raw"]),
    ]
    path = tmp_path / "actions.jsonl"
    path.write_text("\n".join(lines))
    expected = [first, {**others[0], "camera": [1.0, -2.5]}, {**others[1], "camera": (3, 4)}]
    assert read_minecraft_actions(path) == [*expected, ACTIONS["raw_cases"][1]["env_action"]]


NOOP = ACTIONS["cases"][0]["action"]
BAD_LINES = [
    ("{'camera': __import__('os').system('exit 1')}", "neither JSON nor a Python literal"),
    (f"{str(NOOP)[:-1]}, 'x': array([open(1)])}}", "neither JSON nor a Python literal"),
    ("[" * 60_000, "neither JSON nor a Python literal"),
    ("[" * 100_000, "it has 100,000 characters"),
    ("[1, 2]", "it is a list"),
    ('{"camera": [0, 0]}', "lacks 'forward'"),
    (json.dumps({**NOOP, "camera": [0, float("nan")]}), r"\[0, nan\], not two numbers"),
    (json.dumps({**NOOP, "camera": ["1", "2"]}), "not two numbers"),
    ('{"mouse": {"dx": 1}, "keyboard": {"keys": []}}', "no line of the recorder"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES, ids=range(len(BAD_LINES)))
def test_what_is_no_action_is_named_by_its_line(line, message, tmp_path):
    path = tmp_path / "actions.jsonl"
    path.write_text(f"{json.dumps(NOOP)}\n{line}\n")
    with pytest.raises(UsageError, match=f"line 2: .*{message}"):
        read_minecraft_actions(path)


def test_action_files_that_cannot_be_read(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\x00")
    for name, message in (
        ("empty", "holds no action"),
        ("bytes", "it is not text"),
        ("none", "No such file"),
    ):
        with pytest.raises(UsageError, match=message):
            read_minecraft_actions(tmp_path / f"{name}.jsonl")


def test_tokens_out_of_place_are_no_action():
    actions = MinecraftActions()
    noop = actions.encode(NOOP)
    for wrong in (noop[:-1], [*noop[:4], actions.ids["jump"], *noop[5:]], [0, *noop[1:]]):
        with pytest.raises(ValueError, match=r"an action takes 11|cannot stand at place"):
            actions.decode(wrong)


# ---- actions as a preset's record ----------------------------------------------------------------


def test_actions_by_hand():
    """--actions 'forward+jump*2,yaw=15,none': keys, camera, nothing."""
    actions = MinecraftActions(offset=8192)
    rows = actions.parse("forward+jump*2,yaw=15+pitch=-5.2,none")
    assert rows.shape == (4, 11) and (rows[0] == rows[1]).all()
    assert (rows[3] == actions.rest).all() and actions.describe(rows[3:]) == [{}]
    described = actions.describe(rows)
    assert described[0] == {"forward": 1, "jump": 1}
    # the centres of their bins
    assert [round(angle) for angle in described[2]["camera"]] == [-5, 14]
    assert rows.min() >= actions.offset and rows.max() < actions.offset + actions.vocabulary


@pytest.mark.parametrize(
    "text", ["fly", "forward+", "yaw=", "yaw=1e9", "yaw=nan", "forward*0", "missing.jsonl"]
)
def test_actions_by_hand_refused(text):
    with pytest.raises(UsageError) as caught:
        MinecraftActions().parse(text)
    assert caught.value.hint
