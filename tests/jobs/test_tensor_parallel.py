"""--tp: two processes that hold one Transformer together make what one process makes."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from families.small import write_small_models
from several import in_two_processes
from tiny import moving, save_clip
from torch.distributed.device_mesh import init_device_mesh

from diagd_cli.distributed import process_group, world_size
from diagd_cli.loading import load
from diagd_cli.model.config import TransformerConfig
from diagd_cli.model.parallel import Columns, own_parts, plan_of
from diagd_cli.preset_files import load_preset
from diagd_cli.weights.memory import estimate

# cross-attention and tables of positions; biases of every layer, and an MLP without gates
FAMILIES = ("cosmos-5b-video2world", "wham-200m")
FED = 9  # tokens
GREEDY = ("--temperature", 0, "--dtype", "float32", "--save-tokens", "--seed", 3)
DECODINGS = {
    "diagonal": ("--batch", 2),
    "exact": ("--decoding", "exact"),
    "sampled": ("--temperature", 1),
}


def logits_of(preset, mesh=None):
    """Logits after some tokens, all fed at once and, with a cache, in two parts."""
    loaded = load(str(preset), mesh=mesh, pixels=False)
    model, config = loaded.transformer, loaded.preset.transformer
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 20, (2, FED), generator=generator)
    text = torch.randn(2, 4, config.cross_dim or 1, generator=generator)
    with torch.inference_mode():
        cross = model.cross_context(text) if config.cross_dim else None
        cache, found = model.new_cache(2, FED), [model(ids, torch.arange(FED), cross=cross)]
        for part in torch.arange(FED).split(5):
            extent = int(part[-1]) + 1
            found.append(model(ids[:, part], part, cache=cache, extent=extent, cross=cross))
    return torch.stack([found[0], torch.cat(found[1:], dim=1)]), cache.keys.shape[2]


def save_logits():
    """What each of two processes does: its logits go to a file of its own."""
    folder = Path(sys.argv[1])
    with process_group(torch.device("cpu")):
        mesh = init_device_mesh("cpu", (world_size(),))
        for family in FAMILIES:
            logits, heads = logits_of(folder / family / "small.yaml", mesh)
            torch.save((logits, heads), folder / family / f"{mesh.get_local_rank()}.pt")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with models of families, `small.yaml` of Cosmos 4B, and clips."""
    folder = tmp_path_factory.mktemp("tp")
    for family in FAMILIES:
        (folder / family).mkdir()
        write_small_models(family, folder / family, sharp=True)
    write_small_models("cosmos-4b", folder, sharp=True)
    for n, name in enumerate(("a", "b")):
        save_clip(folder / f"{name}.mp4", moving(12 + n, 32, 48)[n:])
    (folder / "no.mp4").write_bytes(b"no video")
    return folder


def asked(world, output, *options):
    clips = [world / f"{name}.mp4" for name in ("a", "no", "b")]
    return ["generate", *clips, "-p", world / "small.yaml", *GREEDY, *options, "-o", f"{output}/"]


@pytest.fixture(scope="module")
def torchrun(world):
    """What the two processes do, by name: both in a list, the first one first."""
    lines = {
        "logits": ["jobs.test_tensor_parallel:save_logits", world],
        **{
            name: [*asked(world, world / "two" / name, *options), "--tp", 2]
            for name, options in DECODINGS.items()
        },
        "there": [
            *asked(world, world / "two" / "exact", "--resume"),
            *DECODINGS["exact"],
            "--tp",
            2,
        ],
        "refused": [*asked(world, world / "none"), "--tp", 2, "--weights", "int8"],
    }
    return dict(zip(lines, in_two_processes(world, list(lines.values()))[0], strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_one_process(world, torchrun, family):
    whole, heads = logits_of(world / family / "small.yaml")
    parts = [torch.load(world / family / f"{rank}.pt") for rank in (0, 1)]
    assert whole.abs().max() > 1
    for logits, own in parts:
        torch.testing.assert_close(logits, whole, atol=1e-5, rtol=0)
        assert own == heads // 2  # of keys and values in the cache
    assert torch.equal(parts[0][0], parts[1][0])


@pytest.mark.parametrize("name", DECODINGS)
def test_two_processes_make_the_tokens_of_one(diagd, world, torchrun, name):
    first, second = torchrun[name]
    alone = diagd(*asked(world, world / "one" / name, *DECODINGS[name]))
    assert first.code == alone.code == 1, first.err  # one clip is none
    assert (second.code, second.out, second.err) == (0, "", "")
    assert first.out == alone.out.replace("/one/", "/two/")
    assert first.err.count("no.mp4 is not a video file") == 1
    for clip in "ab":
        one, two = (np.load(world / who / name / f"{clip}.npz")["codes"] for who in ("one", "two"))
        assert (one == two).all() and len(np.unique(one)) > 20


def test_what_is_there_is_kept_and_nothing_is_loaded(torchrun):
    first, second = torchrun["there"]
    assert first.code == 1 and first.err.count("is there already, with these settings") == 2
    assert (second.code, second.err) == (0, "")


def test_a_refusal_is_told_once(torchrun):
    first, second = torchrun["refused"]
    assert first.code == 2 and "error: --tp cannot be with --weights int8. Leave one" in first.err
    assert (second.code, second.err) == (2, "")


def test_a_sidecar_tells_of_the_processes(world, torchrun):
    told = (world / "two" / "exact" / "a.json").read_text()
    assert torchrun["exact"][0].code == 1 and '"tp": 2' in told


@pytest.mark.parametrize(
    "options, told",
    [
        ([], "--tp 2 is for 2 processes, and there are 1. Start them by torchrun --nproc-per-node"),
        (["--ray", "local"], "--tp cannot be with --ray. Leave one of them out"),
    ],
)
def test_what_cannot_be_asked(diagd, tiny, tmp_path, options, told):
    done = diagd(
        "generate", tiny.clip, "-p", tiny.preset, "-o", tmp_path / "x", "--tp", 2, *options
    )
    assert done.code == 2 and f"error: {told}" in done.err and not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "options, told",
    [
        (["--stream"], "--tp cannot be with --stream"),
        (["--compile"], "--tp cannot be with --compile"),
        (["--device", "cuda:all"], "--tp cannot be with --device cuda:all"),
        ([], "The Transformer of tiny cannot be split: kv_heads (1) is no multiple of 2"),
    ],
)
def test_what_two_processes_cannot_do(diagd, tiny, tmp_path, monkeypatch, options, told):
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = diagd(
        "generate", tiny.clip, "-p", tiny.preset, "-o", tmp_path / "x", "--tp", 2, *options
    )
    assert done.code == 2 and f"error: {told}" in done.err


class TwoOf:
    """What is asked of a mesh of two processes, by the one of a number."""

    def __init__(self, rank):
        self.rank = rank

    def size(self):
        return 2

    def get_local_rank(self):
        return self.rank


def test_each_part_of_a_weight_is_in_one_process():
    """Queries, keys and values are shared out each by itself, also where a file has them apart."""
    config = TransformerConfig(
        vocab=9, dim=4, layers=1, heads=4, kv_heads=2, head_dim=2, mlp_dim=6, bias=True
    )
    rows = torch.arange(16.0)[:, None].expand(16, 4)
    name, out = "blocks.0.attention.qkv.weight", "blocks.0.attention.out."
    for pieces in ([rows], [rows[:8], rows[8:12], rows[12:]], [*rows.split(3)]):
        parts = [dict(own_parts([(name, pieces)], config, TwoOf(rank))) for rank in (0, 1)]
        own = [torch.cat(part[name])[:, 0].tolist() for part in parts]
        assert own == [[0, 1, 2, 3, 8, 9, 12, 13], [4, 5, 6, 7, 10, 11, 14, 15]]
    given = [(f"{out}weight", [torch.eye(4)]), (f"{out}bias", [torch.ones(4)])]
    weights, biases = zip(
        *(dict(own_parts(given, config, TwoOf(rank))).values() for rank in (0, 1)), strict=True
    )
    assert torch.equal(torch.cat([w[0] for w in weights], 1), torch.eye(4))
    assert [b[0].tolist() for b in biases] == [[1] * 4, [0] * 4]  # it is added once
    assert isinstance(plan_of(config)["mlp.up"], Columns)


def test_memory_of_a_share():
    """Weights of blocks, and the cache, are shared out; embedding and output layer are not."""
    preset = load_preset("cosmos-12b")
    whole, half = (estimate(preset, dtype="bfloat16", tp=tp) for tp in (1, 2))
    ends = 2 * 2 * preset.transformer.vocab * preset.transformer.dim
    assert half.weights == pytest.approx(ends + (whole.weights - ends) / 2, rel=0.05)
    assert half.cache == whole.cache / 2 and half.tokenizer == whole.tokenizer
