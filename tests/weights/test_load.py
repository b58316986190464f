"""A preset's models with their weights. The messages for bad files on the command line are tested
in cli/bad.
"""

import ctypes
import hashlib
import os
import pickle
from pathlib import Path

import pytest
import torch
from families.golden_preset import preset_of
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diagd_cli.errors import WeightsError
from diagd_cli.families.cosmos.config import CosmosDvConfig
from diagd_cli.families.freedoom.config import FsqImageConfig
from diagd_cli.families.mineworld.config import VqImageConfig
from diagd_cli.model.config import TransformerConfig
from diagd_cli.model.eight_bits import FORMATS, quantise
from diagd_cli.model.transformer import initialise
from diagd_cli.preset_files import load_preset
from diagd_cli.sources import Weights
from diagd_cli.weights import load as module
from diagd_cli.weights.load import (
    build_transformer,
    copy_weights,
    load_tokenizer,
    load_transformer,
    random_tokenizer,
    random_transformer,
    save_weights,
    tensors,
)

SIZES = {
    "vocab": 64,
    "dim": 16,
    "layers": 1,
    "heads": 2,
    "kv_heads": 2,
    "head_dim": 8,
    "mlp_dim": 16,
}
ROLES = {
    "transformer": (load_transformer, random_transformer),
    "tokenizer": (load_tokenizer, random_tokenizer),
}
each_role = pytest.mark.parametrize("role", ROLES)


@pytest.fixture
def preset(tiny):
    return load_preset(tiny.preset)


@pytest.fixture
def model(preset):
    model = build_transformer(preset)
    initialise(model, seed=1)
    return model


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def equal(model: nn.Module, weights: dict[str, Tensor]) -> bool:
    own = model.state_dict()
    return own.keys() == weights.keys() and all(
        torch.equal(own[name], weights[name]) for name in own
    )


# ---- our own files -------------------------------------------------------------------------------


def test_round_trip_keeps_the_values_of_the_stored_precision(preset, model, tmp_path):
    entry = save_weights(tmp_path / "a.safetensors", model.state_dict())
    assert entry == Weights.single("a.safetensors", sha256(tmp_path / "a.safetensors"))
    stored = load_file(tmp_path / "a.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    loaded = load_transformer(preset, files=[tmp_path / "a.safetensors"])
    assert equal(
        loaded, {name: value.bfloat16().float() for name, value in model.state_dict().items()}
    )


def test_same_weights_same_bytes(model, tmp_path):
    a, b = (
        save_weights(tmp_path / name, model.state_dict())
        for name in ("a.safetensors", "b.safetensors")
    )
    assert a.key == b.key


@each_role
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loaded_for_inference(preset, role, dtype):
    loaded = ROLES[role][0](preset, dtype=dtype)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert {p.dtype for p in loaded.parameters()} == {dtype}
    assert all(table.dtype in (torch.float32, torch.int64) for table in loaded.buffers())


@each_role
def test_parameters_are_allocated_once(preset, role, monkeypatch):
    """What was built is what is filled, and what comes back."""
    built, build = [], module.BUILD[role]

    def watched(preset, device, dtype):
        if device == "meta":
            return build(preset, device, dtype)
        built.append(build(preset, device, dtype))
        places.update({name: p.data_ptr() for name, p in built[0].named_parameters()})
        return built[0]

    places = {}
    monkeypatch.setitem(module.BUILD, role, watched)
    loaded = ROLES[role][0](preset, dtype=torch.bfloat16)
    assert [loaded] == built
    assert {name: p.data_ptr() for name, p in loaded.named_parameters()} == places


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weights", FORMATS)
def test_matrices_of_the_blocks_are_made_8_bits_as_they_are_loaded(preset, dtype, weights):
    """Embedding, norms and the last product stay as they are."""
    full, loaded = load_transformer(preset), load_transformer(preset, dtype=dtype, weights=weights)
    own, held = loaded.state_dict(), 0
    for name, value in full.state_dict().items():
        scale = own.get(f"{name.removesuffix('weight')}scale")
        if scale is None:
            assert torch.equal(own[name], value.to(dtype))
            continue
        wanted, held = quantise(value, FORMATS[weights]), held + 1
        assert torch.equal(own[name].float(), wanted.values.float())
        assert torch.equal(scale, wanted.scale)
    assert held == 4 * preset.transformer.layers and not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())


def test_random_weights_of_8_bits_are_nearly_those_of_the_same_seed(preset):
    full, small = (random_transformer(preset, 3, weights=weights) for weights in ("", "int8"))
    own = small.state_dict()
    for name, value in full.state_dict().items():
        scale = own.get(f"{name.removesuffix('weight')}scale")
        seen = own[name] if scale is None else own[name] * scale
        assert (seen - value).abs().max() <= (0 if scale is None else 0.51 * scale.max())


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_no_more_than_a_tensor_of_the_file_is_in_memory(tmp_path, monkeypatch, kind):
    """Beside the model, that is: 68 MB in bfloat16, of which the largest tensor is 34 MB."""
    sizes = {**SIZES, "vocab": 4096, "dim": 1024, "mlp_dim": 8192, "head_dim": 64}
    preset = preset_of(FsqImageConfig(levels=(8, 8)), TransformerConfig(**sizes), 16, 24, 3)
    weights = random_transformer(preset, 1, dtype=torch.bfloat16).state_dict()
    path = tmp_path / f"a.{kind}"
    save_file(weights, path) if kind == "safetensors" else torch.save(weights, path)
    del weights
    seen = []
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)  # what is free but kept would hide what is taken

    def watched(*arguments):
        for entry in tensors(*arguments):
            yield entry
            seen.append(resident())

    monkeypatch.setattr(module, "tensors", watched)
    before = resident()
    model = load_transformer(preset, dtype=torch.bfloat16, files=[path])
    size = sum(p.nbytes for p in model.parameters())
    largest = max(p.nbytes for p in model.parameters())
    assert size > 60e6 and len(seen) == len(list(model.parameters()))
    assert max(seen) - before < size + largest + 16e6 and resident() - before < size + 16e6


def resident() -> int:
    """Bytes of this process that are in memory, mapped files included."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("no /proc here")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_an_output_layer_that_is_the_embedding(preset, tmp_path):
    """Written under both names, loaded as one."""
    changed = preset.transformer.model_copy(update={"tied": True, "outputs": 0})
    preset = preset.model_copy(update={"transformer": changed})
    model = random_transformer(preset, 3)
    save_weights(tmp_path / "a.safetensors", model.state_dict(), torch.float32)
    loaded = load_transformer(preset, files=[tmp_path / "a.safetensors"])
    assert loaded.head.weight is loaded.embed.weight and equal(loaded, model.state_dict())


CHANGES = {
    "holds secret, which the preset's model has not. The file": lambda w: (
        w | {"secret": torch.ones(2)}
    ),
    "lacks blocks.0.mlp.down.weight, and 1 more names differ": lambda w: {
        k: v for k, v in w.items() if "mlp." not in k
    },
    "embed.weight is (29, 8), the preset needs (29, 16)": lambda w: (
        w | {"embed.weight": torch.ones(29, 8)}
    ),
    "norm.weight is torch.int64, not floating-point": lambda w: (
        w | {"norm.weight": torch.ones(16, dtype=torch.int64)}
    ),
}


@pytest.mark.parametrize("message", CHANGES)
def test_a_file_that_does_not_fit_is_refused_before_anything_is_read(
    preset, model, tmp_path, message
):
    path = tmp_path / "a.safetensors"
    save_file(CHANGES[message](model.state_dict()), path)
    with pytest.raises(WeightsError) as caught:
        tensors(preset, "transformer", [path])
    assert message in str(caught.value) and str(path) in str(caught.value)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickle_does_not_run(preset, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    torch.save({"embed.weight": Trap(tmp_path / "sprung")}, tmp_path / "b.safetensors")
    for name, message in (
        ("a", "is not a readable safetensors file"),
        ("b", "is refused: it refers to"),
    ):
        with pytest.raises(WeightsError, match=message):
            load_transformer(preset, files=[tmp_path / f"{name}.safetensors"])
    assert not (tmp_path / "sprung").exists()


# ---- where they are ------------------------------------------------------------------------------


def test_a_folder_is_looked_in_first(preset, tmp_path):
    model = random_transformer(preset, 5)
    entry = save_weights(tmp_path / "transformer.safetensors", model.state_dict(), torch.float32)
    ours = preset.model_copy(update={"transformer_weights": entry})
    assert equal(load_transformer(ours, folder=tmp_path), model.state_dict())
    with pytest.raises(
        WeightsError, match=rf"{tmp_path}/transformer.safetensors is damaged or another version"
    ):
        load_transformer(preset, folder=tmp_path)


def test_files_that_are_given_need_no_checksum(preset, tmp_path):
    model = random_transformer(preset, 5)
    save_weights(tmp_path / "mine.safetensors", model.state_dict(), torch.float32)
    assert equal(
        load_transformer(preset, files=[tmp_path / "mine.safetensors"]), model.state_dict()
    )


def test_very_large_files_are_not_verified(preset, tmp_path, monkeypatch):
    """Hashing them would take as long as loading them."""
    save_weights(tmp_path / "transformer.safetensors", random_transformer(preset, 5).state_dict())
    monkeypatch.setattr(module, "ALWAYS_VERIFIED", 1000)
    load_transformer(preset, folder=tmp_path)


@each_role
def test_a_preset_without_weights(preset, role):
    bare = preset.model_copy(update={f"{role}_weights": None})
    with pytest.raises(WeightsError, match=f"The preset tiny names no {role} weights"):
        ROLES[role][0](bare)


def test_copy(preset, tiny, tmp_path):
    entry = copy_weights(preset, "tokenizer", tmp_path)
    assert entry == preset.tokenizer_weights == Weights.single("tokenizer.safetensors", entry.key)
    assert sha256(tmp_path / "tokenizer.safetensors") == entry.key
    assert copy_weights(preset, "tokenizer", tiny.folder) == entry  # it is there already


# ---- the official formats ------------------------------------------------------------------------


def cosmos(**more):
    codec = CosmosDvConfig(channels=2, multipliers=(1, 2, 1), blocks=1, z_channels=5, levels=(8, 8))
    transformer = TransformerConfig(**SIZES, qk_norm=True, positions={"kind": "rope-3d"})
    return preset_of(codec, transformer, 32, 48, 9, **more)


def mineworld(**more):
    codec = VqImageConfig(codebook=64, channels=(8, 8), blocks=1, latent=4, groups=4)
    return preset_of(codec, TransformerConfig(**SIZES), 8, 12, 3, **more)


@pytest.fixture(scope="module")
def codecs():
    """Weights of a random tokenizer of each."""
    return {
        name: random_tokenizer(preset, 1).state_dict()
        for name, preset in (("cosmos", cosmos()), ("vq", mineworld()))
    }


@pytest.fixture
def files(codecs, tmp_path):
    """Official files, as far as their names go, of random models: the encoder and the decoder of
    Cosmos, ...
    """
    codec = codecs["cosmos"]
    halves = {
        half: {name: tensor for name, tensor in codec.items() if name.startswith(parts)}
        for half, parts in (
            ("encoder", ("encoder", "quant_conv")),
            ("decoder", ("decoder", "post_quant_conv")),
        )
    }
    for name, weights in halves.items():
        save_file(weights, tmp_path / f"{name}.safetensors")
    save_file(codec, tmp_path / "autoencoder.safetensors")
    vq = {f"tokenizer.model.{k}": v.contiguous() for k, v in codecs["vq"].items()}
    torch.save({"state_dict": vq}, tmp_path / "mineworld.ckpt")
    return tmp_path


@pytest.mark.parametrize("names", [["encoder", "decoder"], ["decoder", "encoder"], ["autoencoder"]])
def test_a_tokenizer_in_one_file_or_in_two(codecs, files, names):
    paths = [files / f"{name}.safetensors" for name in names]
    assert equal(load_tokenizer(cosmos(), files=paths), codecs["cosmos"])


def test_a_copy_of_several_files(codecs, files, tmp_path):
    (tmp_path / "sub").mkdir()
    names = ["encoder.safetensors", "decoder.safetensors"]
    for name in names:
        (files / name).rename(tmp_path / "sub" / name)
    entry = {
        "format": "cosmos",
        "sources": [{"files": [{"file": f"sub/{name}"} for name in names]}],
    }
    copied = copy_weights(cosmos(tokenizer_weights=entry), "tokenizer", tmp_path / "to", tmp_path)
    assert copied.format == "cosmos" and [file.file for file in copied.sources[0].files] == names
    loaded = load_tokenizer(cosmos(tokenizer_weights=copied), folder=tmp_path / "to")
    assert equal(loaded, codecs["cosmos"])


def test_nothing_but_weights_is_copied(preset, tmp_path):
    """A stranger's preset may name any file of the machine."""
    (tmp_path / "secret.txt").write_text("mine alone")
    preset = preset.model_copy(update={"tokenizer_weights": Weights.single("../secret.txt")})
    (tmp_path / "from").mkdir()
    with pytest.raises(
        WeightsError, match=r"secret\.txt is neither a PyTorch archive nor safetensors"
    ):
        copy_weights(preset, "tokenizer", tmp_path / "to", tmp_path / "from")
    assert not (tmp_path / "to").exists()


def test_the_first_source_that_is_there(codecs, files):
    """Not the one that is named first, if it is not all there."""
    sources = [["encoder.safetensors", "missing.safetensors"], ["autoencoder.safetensors"]]
    entry = {
        "format": "cosmos",
        "sources": [{"files": [{"file": file} for file in part]} for part in sources],
    }
    loaded = load_tokenizer(cosmos(tokenizer_weights=entry), folder=files)
    assert equal(loaded, codecs["cosmos"])


def test_without_an_entry_the_tokenizers_family_tells_the_format(codecs, files, tmp_path):
    ours = codecs["vq"]
    assert equal(load_tokenizer(mineworld(), files=[files / "mineworld.ckpt"]), ours)
    save_weights(tmp_path / "ours.safetensors", ours, torch.float32)
    with pytest.raises(WeightsError, match="It is no MineWorld file"):
        load_tokenizer(mineworld(), files=[tmp_path / "ours.safetensors"])
    entry = {"format": "diagd", "file": "ours.safetensors"}
    assert equal(load_tokenizer(mineworld(tokenizer_weights=entry), folder=tmp_path), ours)


@pytest.mark.parametrize("form", ["cosmos", "wham"])
def test_a_format_of_another_family(files, form):
    entry = {"format": form, "file": "mineworld.ckpt"}
    with pytest.raises(
        WeightsError, match=f"No file of format {form} holds a tokenizer of kind vq-image"
    ):
        load_tokenizer(mineworld(tokenizer_weights=entry), folder=files)


def test_a_model_is_not_spread_over_files(preset, files):
    with pytest.raises(
        WeightsError, match=r"transformer weights of tiny are one file, not 2\. Give the one file"
    ):
        load_transformer(preset, files=[files / "encoder.safetensors"] * 2)
