"""Checkpoints are untrusted: what they name is never imported or called, and what is odd is one
clear error.
"""

import collections
import contextlib
import io
import os
import pathlib
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest
import torch
from wham_checkpoint import ARGS, save_checkpoint

from diagd_cli.checkpoints.archive import read_weights
from diagd_cli.checkpoints.torchzip import TorchArchive
from diagd_cli.checkpoints.unpickle import Global, StandIn, StoredTensor, Unpickler
from diagd_cli.errors import WeightsError
from diagd_cli.families.wham.lightning import PACKAGES, hyper_parameters


def saved(path, value, **options):
    torch.save(value, path, **options)
    return TorchArchive(path)


def zipped(path, pickled: bytes):
    """An archive that holds nothing but this pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
    return path


# ---- what is read --------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_data_and_tensors_of_every_dtype(tmp_path, protocol):
    dtypes = [
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "bool",
    ]
    tensors = {name: torch.arange(-3, 9).view(3, 4).to(getattr(torch, name)) for name in dtypes}
    data = {
        "n": [1, -(2**70), 2.5, None, True],
        "b": b"\0x",
        "t": (1, (2,), "é" * 300),
        "s": {1, "a"},
        7: frozenset([3]),
    }
    archive = saved(tmp_path / "x.pt", {"tensors": tensors, "data": data}, pickle_protocol=protocol)
    root = archive.unpickle()
    assert root["data"] == data
    for name, tensor in tensors.items():
        read = archive.tensor(root["tensors"][name])
        assert read.dtype == tensor.dtype and torch.equal(read, tensor)


def test_views_parameters_and_modules(tmp_path):
    base = torch.arange(24.0)
    linear = torch.nn.Linear(3, 4)
    value = {
        "part": base[5:17].view(3, 4).T,
        "whole": base,
        "parameter": torch.nn.Parameter(base[:2]),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(4.0),
        "module": linear.state_dict(),
    }
    archive = saved(tmp_path / "x.pt", value)
    root = archive.unpickle()
    assert isinstance(root["module"], collections.OrderedDict)
    for name in ("part", "whole", "parameter", "empty", "scalar"):
        read = archive.tensor(root[name])
        assert torch.equal(read, value[name]) and read.stride() == value[name].stride()
    assert torch.equal(archive.tensor(root["module"]["weight"]), linear.weight)


@pytest.mark.parametrize("protocol", [2, 4])
def test_numpy_numbers(tmp_path, protocol):
    value = [
        np.float64(2.5),
        np.float32(0.5),
        np.int64(-3),
        np.uint8(200),
        np.bool_(True),
        np.dtype(">i4").type(7),
    ]
    assert saved(tmp_path / "x.pt", value, pickle_protocol=protocol).unpickle() == [
        2.5,
        0.5,
        -3,
        200,
        True,
        7,
    ]


def test_names_that_stand_for_nothing(tmp_path):
    root = saved(
        tmp_path / "x.pt", [torch.float32, torch.device("cpu"), pathlib.PurePosixPath("a/b"), dict]
    ).unpickle()
    assert root[0] == Global("torch", "float32")
    assert isinstance(root[1], StandIn) and root[1].args == ("cpu",)
    assert isinstance(root[2], StandIn) and "/".join(root[2].args) == "a/b"


@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])
def test_a_path_of_any_python(tmp_path, module):
    """As Python before 3.13 names it, and as 3.13 does."""
    path = Unpickler(tmp_path).load(f"\x80\x02c{module}\nPosixPath\n)R.".encode("latin-1"))
    assert path.kind == Global(module, "PosixPath")


def test_a_stream_of_bytes(tmp_path):
    stream = Unpickler(tmp_path).load(pickle.dumps(io.BytesIO(b"x"), protocol=2))
    assert stream.kind == Global("_io", "BytesIO") and stream.state[0] == b"x"


@pytest.mark.parametrize("package", ["humanmodelling", "wham"])
def test_a_lightning_checkpoint_without_the_package_that_made_it(tmp_path, package):
    path = save_checkpoint(tmp_path / "wham.ckpt", package)
    assert not any(module.split(".")[0] == package for module in sys.modules)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    root = TorchArchive(path).unpickle(PACKAGES)
    assert root["global_step"] == 1000 and root["optimizer_states"][0]["param_groups"][0][
        "betas"
    ] == (0.9, 0.95)
    args = root["hyper_parameters"]["predictor_args"]
    assert isinstance(args, StandIn) and args.kind == Global(f"{package}.{ARGS[0]}", ARGS[1])
    assert str(args.attributes["pl_class"]).endswith(
        "gpt_token_transformer_predictor.GPTTokenPredictor"
    )
    assert not any(module.split(".")[0] == package for module in sys.modules)


def test_stand_ins_take_any_state(tmp_path, monkeypatch):
    """Subclasses of containers, slots, arguments of __new__ and of a call: all kept, nothing
    run.
    """

    class Row(dict):
        __module__, __qualname__ = "models.odd", "Row"

    class Column(list):
        __module__, __qualname__ = "models.odd", "Column"

    class Slots:
        __module__, __qualname__ = "models.odd", "Slots"
        __slots__ = ("a",)

    class New:
        __module__, __qualname__ = "models.odd", "New"

        def __getnewargs__(self):
            return (1, 2)

    class Called:
        __module__, __qualname__ = "models.odd", "Called"

        def __reduce__(self):
            return Called, (3,), {"x": 4}

    module = types.ModuleType("models.odd")
    vars(module).update({kind.__name__: kind for kind in (Row, Column, Slots, New, Called)})
    monkeypatch.setitem(sys.modules, "models", types.ModuleType("models"))
    monkeypatch.setitem(sys.modules, "models.odd", module)
    slots = Slots()
    slots.a = 5
    pickled = pickle.dumps([Row(k=1), Column([6]), slots, New(), Called()], protocol=2)
    row, column, slots, new, called = Unpickler(tmp_path, ("models",)).load(pickled)
    assert row.items == {"k": 1} and column.entries == [6] and slots.attributes == {"a": 5}
    assert new.args == (1, 2) and called.args == (3,) and called.attributes == {"x": 4}


# ---- what is refused -----------------------------------------------------------------------------


class Reduced:
    """Pickles as a call."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def attacks(marker) -> dict[str, object]:
    command, code = f"touch {marker}", f"open({str(marker)!r}, 'w').close()"
    return {
        "system": Reduced(os.system, command),
        "eval": Reduced(eval, code),
        "exec": Reduced(exec, code),
        "open": Reduced(open, str(marker), "w"),
        "touch": Reduced(pathlib.Path.touch, pathlib.Path(marker)),
        "getattr": Reduced(getattr, "", "format"),
        "import": Reduced(__import__, "antigravity"),
        "load": Reduced(torch.load, str(marker)),
        "loads": Reduced(pickle.loads, pickle.dumps(Reduced(eval, code))),
    }


@pytest.mark.parametrize("module", ["io", "_io", "builtins"])
def test_open_is_refused_by_whichever_name(tmp_path, module):
    """Python 3.13 has another one than 3.11."""
    path = zipped(tmp_path / "x.pt", f"\x80\x02c{module}\nopen\n.".encode("latin-1"))
    with pytest.raises(WeightsError, match=rf"refers to {module}\.open"):
        hyper_parameters(path)


@pytest.mark.parametrize("place", ["hyper_parameters", "callbacks", "state_dict"])
@pytest.mark.parametrize("attack", attacks("x"))
def test_a_call_anywhere_in_a_checkpoint_is_refused_and_not_made(tmp_path, attack, place):
    marker = tmp_path / "marker"
    path = save_checkpoint(tmp_path / "wham.ckpt", **{place: {"x": attacks(marker)[attack]}})
    with pytest.raises(
        WeightsError, match=r"wham\.ckpt is refused: it refers to .*Nothing in it was run"
    ) as caught:
        hyper_parameters(path)
    assert not marker.exists() and "\n" not in str(caught.value)


def handmade(marker) -> dict[str, bytes]:
    """Pickles that no pickler writes."""
    command = f"touch {marker}".encode()
    unicode = b"X" + len(command).to_bytes(4, "little") + command
    return {
        "protocol 0": b"cos\nsystem\n(S'" + command + b"'\ntR.",
        "stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + unicode + b"\x85R.",
        "instance": b"(S'" + command + b"'\nios\nsystem\n.",
        "object": b"(cos\nsystem\n" + unicode + b"o.",
        "dotted": b"\x80\x04\x8c\x06pickle\x8c\x10os.system\x93" + unicode + b"\x85R.",
        "extension": b"\x80\x02\x82\x01.",
        "call of a call": b"\x80\x02ccollections\nOrderedDict\n)R" + unicode + b"\x85R.",
        "state of a name": b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00aK\x01sb.",
        "storage": b"\x80\x02(X\x07\x00\x00\x00storagecos\nsystem\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ.",
    }


@pytest.mark.parametrize("name", handmade("x"))
def test_handmade_pickles_are_refused(tmp_path, name):
    marker = tmp_path / "marker"
    path = zipped(tmp_path / "x.ckpt", handmade(marker)[name])
    with pytest.raises(WeightsError):
        TorchArchive(path).unpickle(PACKAGES)
    assert not marker.exists()


def test_a_call_within_an_admitted_package_is_stood_for(tmp_path, monkeypatch):
    """Even where a module of that name lies on the path."""
    marker = tmp_path / "marker"
    (tmp_path / "models.py").write_text(f"open({str(marker)!r}, 'w')\nfrom os import system\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = zipped(tmp_path / "x.ckpt", b"\x80\x02cmodels\nsystem\nX\x04\x00\x00\x00true\x85R.")
    made = TorchArchive(path).unpickle(PACKAGES)
    assert isinstance(made, StandIn) and made.args == ("true",)
    assert not marker.exists() and "models" not in sys.modules


@pytest.mark.parametrize("module", ["modelsx", "model", "os", "", "models_evil.x"])
def test_a_package_is_admitted_by_its_whole_name(tmp_path, module):
    with pytest.raises(WeightsError, match="refers to"):
        Unpickler(tmp_path, ("models",)).load(f"\x80\x02c{module}\nf\n.".encode("latin-1"))


# ---- what is damaged -----------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_file_that_is_cut_off(tmp_path, kept):
    path = save_checkpoint(tmp_path / "wham.ckpt")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(
        WeightsError, match=r"wham\.ckpt .*(cut off|empty).*Fetch the file again"
    ) as caught:
        read_weights(path, "state_dict", stand_ins=PACKAGES)
    assert "\n" not in str(caught.value)


def test_tensors_that_reach_beyond_their_storage(tmp_path):
    """Sizes, strides and offsets are checked, so that no memory outside the storage can be read."""
    path = tmp_path / "x.pt"
    torch.save(torch.arange(12.0).view(3, 4), path)
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read("x/data.pkl")
    shape = pickled.index(b"K\x03K\x04\x86")
    for old, new in (
        (b"K\x03K\x04\x86", b"K\x03K\x05\x86"),
        (b"K\x04K\x01\x86", b"K\x05K\x01\x86"),
    ):
        assert old in pickled[shape:]
        with pytest.raises(WeightsError, match="its storage does not hold"):
            Unpickler(path).load(pickled[:shape] + pickled[shape:].replace(old, new, 1))


def test_a_storage_that_is_longer_than_its_record(tmp_path):
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as archive:
        torch.save(torch.arange(12.0), tmp_path / "whole.pt")
        with zipfile.ZipFile(tmp_path / "whole.pt") as whole:
            archive.writestr("x/data.pkl", whole.read("whole/data.pkl"))
        archive.writestr("x/data/0", bytes(40))
    archive = TorchArchive(path)
    with pytest.raises(WeightsError, match="40 bytes, fewer than its tensor needs"):
        archive.tensor(archive.unpickle())


def test_pickles_that_are_nested_to_death(tmp_path):
    """A key that is nested deeply enough would end the process when hashed."""
    nested = b")" + b"\x85" * 200_000
    with pytest.raises(WeightsError, match="as a key"):
        Unpickler(tmp_path).load(b"\x80\x02}" + nested + b"Ns.")


def test_random_damage_gives_data_or_one_error(tmp_path):
    with zipfile.ZipFile(save_checkpoint(tmp_path / "wham.ckpt")) as archive:
        pickled = archive.read("wham/data.pkl")
    random = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(pickled)
        for place in random.integers(0, len(pickled), random.integers(1, 6)):
            damaged[place] = random.integers(256)
        with contextlib.suppress(WeightsError):
            Unpickler(tmp_path, PACKAGES).load(bytes(damaged))


# ---- memory --------------------------------------------------------------------------------------


def test_tensors_are_mapped_and_the_rest_is_left_alone(tmp_path):
    """Of 60 MB no more than one layer of 8 is in memory at a time; what is released can be read
    again.
    """
    path = tmp_path / "x.pt"
    big = {f"layer{i}": torch.ones(2_000_000) for i in range(5)}
    torch.save({"state_dict": big, "optimizer_states": [torch.zeros(5_000_000)]}, path)
    del big
    before = resident()
    archive = TorchArchive(path)
    most = 0
    for stored in archive.unpickle()["state_dict"].values():
        assert isinstance(stored, StoredTensor) and archive.tensor(stored).sum() == 2_000_000
        most = max(most, resident() - before)
        archive.release(stored)
    assert most < 16e6
    assert archive.tensor(stored)[-1] == 1


def resident() -> int:
    """Bytes of this process that are in memory, mapped files included."""
    statm = pathlib.Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("no /proc here")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
