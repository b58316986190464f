"""Reading weight files: what is found in each format, and that nothing in a file runs."""

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from wham_checkpoint import GOLDEN, save_checkpoint

from diagd_cli.checkpoints.archive import fill_rows, read_weights
from diagd_cli.errors import WeightsError

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv3d = nn.Conv3d(2, 3, 1)

    def forward(self, x):
        return self.conv3d(x)


class Model(nn.Module):
    """Nested, with a list, buffers of both kinds, a tensor shared by two names, and bfloat16."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(Inner(), nn.ReLU())
        self.blocks = nn.ModuleList([nn.Linear(2, 2).to(torch.bfloat16)])
        self.register_buffer("table", torch.arange(6).view(2, 3).T)
        self.register_buffer("derived", torch.ones(2, dtype=torch.float64), persistent=False)
        self.again = self.blocks[0].weight

    def forward(self, x):
        return (
            self.encoder(x)
            + self.table.sum()
            + self.derived.sum()
            + self.blocks[0](torch.ones(2).bfloat16()).sum()
        )


def traced(path: Path) -> dict[str, Tensor]:
    """Save a traced model; returns its tensors."""
    model = Model().eval()
    torch.jit.trace(model, torch.zeros(1, 2, 1, 2, 2), check_trace=False).save(str(path))
    return {**model.state_dict(), "derived": model.derived}


def loaded(path: Path, *inside: str) -> dict[str, Tensor]:
    found = read_weights(path, *inside)
    tensors = {name: stored.load() for name, stored in found.items()}
    assert all(
        found[name].shape == tensor.shape and found[name].dtype == tensor.dtype
        for name, tensor in tensors.items()
    )
    return tensors


def same(seen: dict[str, Tensor], wanted: dict[str, Tensor]) -> bool:
    pairs = [(seen[name], wanted[name]) for name in wanted]
    return seen.keys() == wanted.keys() and all(
        a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs
    )


def rewritten(source: Path, target: Path, change, compression: int = zipfile.ZIP_STORED) -> Path:
    """A copy of a zip archive with other contents: change(name within the archive, bytes) ->
    bytes.
    """
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, change(entry.filename.split("/", 1)[1], old.read(entry)))
    return target


# ---- what is found -------------------------------------------------------------------------------


def test_a_traced_module_tree(tmp_path):
    wanted = traced(tmp_path / "a.jit")
    assert same(loaded(tmp_path / "a.jit"), wanted)


def test_a_scripted_module_with_lists_and_numbers(tmp_path):
    class Scripted(nn.Module):
        sizes: list[int]

        def __init__(self):
            super().__init__()
            self.sizes, self.scale, self.names = [1, 2], 0.5, {"a": 1}
            self.weight = nn.Parameter(torch.randn(3))

        def forward(self, x):
            return x * self.weight * self.scale * self.sizes[0]

    model = Scripted()
    torch.jit.script(model).save(str(tmp_path / "a.jit"))
    assert same(loaded(tmp_path / "a.jit"), model.state_dict())


@pytest.mark.parametrize(
    "wrap", [lambda w: w, lambda w: {"model": w, "optimizer": {"state": {0: w["a"]}}, "step": 3}]
)
def test_a_saved_state(tmp_path, wrap):
    weights = {
        "a": torch.randn(2, 3),
        "b": nn.Parameter(torch.ones(2).half()),
        "c": torch.randn(4, 4)[1:, ::2],
    }
    torch.save(wrap(weights), tmp_path / "a.pt")
    assert same(loaded(tmp_path / "a.pt", "model"), weights)


def test_safetensors(tmp_path):
    weights = {"a": torch.randn(2, 3), "b": torch.ones(2).bfloat16(), "none": torch.empty(0, 3)}
    save_file(weights, tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").rename(tmp_path / "a.bin")  # told by content
    assert same(loaded(tmp_path / "a.bin"), weights)


def test_shapes_are_known_before_anything_is_read(tmp_path):
    torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "a.pt")
    assert read_weights(tmp_path / "a.pt")["a"].shape == (10**6, 10**6)


def test_a_checkpoint_that_names_classes(tmp_path):
    """Their packages are named by the caller, and still not imported."""
    path = save_checkpoint(tmp_path / "wham.ckpt")
    with pytest.raises(WeightsError, match="it refers to humanmodelling"):
        read_weights(path, "state_dict")
    found = read_weights(path, "state_dict", stand_ins=("humanmodelling",))
    assert set(found) >= set(load_file(GOLDEN / "tiny_v1_weights.safetensors"))


def test_every_parameter_must_be_given():
    with pytest.raises(AssertionError, match="no weights for bias"):
        fill_rows(nn.Linear(2, 2), [("weight", [torch.ones(2, 2)])])


def test_rows_of_a_tensor_and_rows_that_make_a_parameter(tmp_path):
    weights = {"a": torch.randn(5, 2), "b": torch.randn(3, 2)}
    save_file(weights, tmp_path / "a.safetensors")
    stored = read_weights(tmp_path / "a.safetensors")
    model = nn.Linear(2, 5, bias=False, dtype=torch.bfloat16)
    fill_rows(model, [("weight", [stored["a"].rows(3, 5).load(), stored["b"].load()])])
    assert torch.equal(model.weight, torch.cat([weights["a"][3:], weights["b"]]).bfloat16())


# ---- what is refused -----------------------------------------------------------------------------


class Touch:
    """Its pickle makes a file when it is loaded as pickles usually are."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def refusal(path: Path) -> str:
    """The one line of the error that reading all of a file gives."""
    with pytest.raises(WeightsError) as error:
        loaded(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


def test_a_traced_model_whose_pickle_would_run_something(tmp_path):
    traced(tmp_path / "good.jit")
    payload = pickle.dumps(Touch(tmp_path / "ran"), protocol=2)
    bad = rewritten(
        tmp_path / "good.jit",
        tmp_path / "bad.jit",
        lambda n, data: payload if n == "data.pkl" else data,
    )
    assert "refers to posix.mkdir" in refusal(bad) or "refers to nt.mkdir" in refusal(bad)
    pickle.loads(payload)  # the attack is a real one
    assert (tmp_path / "ran").is_dir()


def test_a_saved_state_whose_pickle_would_run_something(tmp_path):
    torch.save({"a": torch.ones(2), "b": Touch(tmp_path / "ran")}, tmp_path / "bad.pt")
    assert "Nothing in it was run" in refusal(tmp_path / "bad.pt")
    assert not (tmp_path / "ran").exists()


def test_the_code_of_a_scripted_model_does_not_run(tmp_path):
    class Armed(nn.Module):
        def __init__(self, path: str):
            super().__init__()
            self.path = path
            self.weight = nn.Parameter(torch.ones(2))

        @torch.jit.export
        def __getstate__(self) -> tuple[Tensor, str, bool]:
            return self.weight, self.path, self.training

        @torch.jit.export
        def __setstate__(self, state: tuple[Tensor, str, bool]) -> None:
            self.weight = state[0]
            self.path = state[1]
            self.training = state[2]
            torch.save(self.weight, self.path)

        def forward(self, x):
            return x * self.weight

    mark = tmp_path / "ran"
    torch.jit.script(Armed(str(mark))).save(str(tmp_path / "armed.jit"))
    assert "holds no tensors by name" in refusal(tmp_path / "armed.jit")
    assert not mark.exists()
    torch.jit.load(str(tmp_path / "armed.jit"))  # the attack is a real one
    assert mark.is_file()


@pytest.mark.parametrize("kind", ["jit", "pt", "safetensors"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_files_that_are_cut_off(tmp_path, kind, share):
    path = tmp_path / f"a.{kind}"
    if kind == "jit":
        traced(path)
    else:
        weights = {"a": torch.ones(100), "b": torch.ones(100, 5)}
        save_file(weights, path) if kind == "safetensors" else torch.save(weights, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert "Fetch the file again" in refusal(path)


@pytest.mark.parametrize(
    "data",
    [b"", b"no weights", b"\x80\x02}q\x00.", b"PK\3\4", b"PK\3\4 and no more", b"<html>", b"{}"],
)
def test_files_that_are_something_else(tmp_path, data):
    (tmp_path / "a.pt").write_bytes(data)
    assert "Fetch the file again" in refusal(tmp_path / "a.pt")


@pytest.mark.parametrize("name", ["a.ckpt", "a.jit", "a.safetensors"])
def test_a_pointer_in_place_of_a_large_file(tmp_path, name):
    (tmp_path / name).write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
    )
    message = refusal(tmp_path / name)
    assert message.endswith(
        "is a Git LFS pointer, not the weights. Fetch the file that it points to"
    )


def test_the_format_before_zip_asks_to_be_converted(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    assert "Convert it: torch.save(torch.load(OLD, weights_only=True), NEW)" in refusal(
        tmp_path / "old.bin"
    )


def test_files_that_are_not_there(tmp_path):
    assert "no such file" in refusal(tmp_path / "a.pt")
    assert "is a directory" in refusal(tmp_path)


@pytest.mark.parametrize("content", [{}, {"a": 1}, {"model": {}}])
def test_an_archive_without_tensors(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    assert "holds no tensors by name" in refusal(tmp_path / "a.pt")


def test_an_archive_of_something_else(tmp_path):
    torch.save([1, 2, 3], tmp_path / "list.pt")
    assert "holds no weights but a list" in refusal(tmp_path / "list.pt")
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("hello.txt", "hello")
    assert "no PyTorch checkpoint" in refusal(tmp_path / "other.pt")


def test_compressed_tensors_are_refused_before_they_take_memory(tmp_path):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "good.pt")
    bomb = rewritten(
        tmp_path / "good.pt", tmp_path / "bomb.pt", lambda _, data: data, zipfile.ZIP_DEFLATED
    )
    assert "compressed" in refusal(bomb)


def test_a_module_tree_without_end(tmp_path):
    """A module that holds itself: pickle's own operations, as TorchScript writes them."""
    traced(tmp_path / "good.jit")
    loop = b"\x80\x02c__torch__\nModel\nq\x00)\x81q\x01}(X\x01\x00\x00\x00ah\x01ub."
    path = rewritten(
        tmp_path / "good.jit",
        tmp_path / "loop.jit",
        lambda n, data: loop if n == "data.pkl" else data,
    )
    assert "have no end" in refusal(path)
