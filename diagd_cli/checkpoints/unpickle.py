"""A pickle reader that makes data and nothing else, for checkpoints that hold objects of classes
that are not there.

Nothing that a pickle names is imported or called. A small stack machine knows plain data, records
that say where a tensor lies, a short list of names (`KNOWN`), and inert stand-ins for objects of
the packages that the caller lists. Any other name is refused.
"""

from __future__ import annotations

import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diagd_cli.errors import WeightsError

FETCH = "Fetch the file again"
LARGEST = 1 << 62  # no size, stride or offset is near it


@dataclass(frozen=True)
class Global:
    """A class or function that a pickle names; only its name."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class StandIn:
    """An object of a class that is not loaded: what it was made from and what it was filled with,
    all plain data.
    """

    kind: Global
    args: tuple = ()
    state: Any = None
    items: dict = field(default_factory=dict)
    entries: list = field(default_factory=list)

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes that the state sets; {} where it is of another form."""
        parts = self.state if isinstance(self.state, tuple) else (self.state,)
        return {
            k: v
            for part in parts
            if isinstance(part, dict)
            for k, v in part.items()
            if isinstance(k, str)
        }


@dataclass(frozen=True)
class Storage:
    """A run of `count` elements, in the archive's record data/`key`."""

    dtype: torch.dtype
    key: str
    count: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is still in the file: a view of a storage, in which every element of it
    lies.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        return self.storage.dtype


class Unpickler:
    """A stack machine for the pickle operations that data needs (protocols 2 to 5). One call of
    `load`.

    path: names the file in errors.
    stand_ins: packages whose classes may be named; their objects become `StandIn`.
    """

    def __init__(self, path: Path, stand_ins: tuple[str, ...] = ()):
        self.path, self.stand_ins = path, stand_ins
        self.stack: list = []
        self.marks: list[list] = []
        self.memo: dict[int, Any] = {}

    def load(self, data: bytes) -> Any:
        """The object that `data` holds. Raises WeightsError for a name that is not admitted, and
        for damaged data.
        """
        try:
            for operation, argument, _ in pickletools.genops(data):
                self._execute(operation.name, argument)
            return self.stack.pop()
        except (
            ValueError,
            TypeError,
            LookupError,
            AttributeError,
            ArithmeticError,
            RecursionError,
            MemoryError,
        ) as why:
            raise WeightsError(
                f"{self.path} is damaged: its pickle makes no sense ({why})", FETCH
            ) from None

    def _execute(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in LITERALS:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name]())
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            size = int(name[-1])
            stack[len(stack) - size :] = [tuple(stack[-size:])]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if argument is None else argument] = stack[-1]
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            module, called = argument.split(" ", 1) if argument is not None else self._popped(2)
            self.stack.append(self._admit(Global(module, called)))
        elif name in OPERATIONS:
            OPERATIONS[name](self)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise WeightsError(
                f"{self.path} is refused: its pickle uses {name}, which no weights need", FETCH
            )

    def _popped(self, count: int) -> list:
        return [self.stack.pop() for _ in range(count)][::-1]

    def _marked(self) -> list:
        """What was pushed since the last mark."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def _extend(self, items: list) -> None:
        target = self.stack[-1]
        (target.entries if isinstance(target, StandIn) else _plain(target, list)).extend(items)

    def _update(self, items: list) -> None:
        target = self.stack[-1]
        pairs = zip(map(_key, items[::2]), items[1::2], strict=True)
        (target.items if isinstance(target, StandIn) else _plain(target, dict)).update(pairs)

    def _add(self, items: list) -> None:
        _plain(self.stack[-1], set).update(map(_key, items))

    def _admit(self, named: Global) -> Global:
        packages = tuple(f"{package}." for package in self.stand_ins)
        if (named.module, named.name) not in KNOWN and not f"{named.module}.".startswith(packages):
            message = f"{self.path} is refused: it refers to {named}, which no weights need"
            raise WeightsError(
                message, "Nothing in it was run; fetch the file from its official source"
            )
        return named

    def _make(self, kind: Global, args: tuple) -> None:
        """An object by a call or by __new__: the few kinds that are known; else it is stood for."""
        known = KNOWN.get((_plain(kind, Global).module, kind.name))
        self.stack.append(
            known(*_plain(args, tuple)) if known else StandIn(kind, _plain(args, tuple))
        )

    def _build(self, target: Any, state: Any) -> None:
        if isinstance(target, StandIn):
            target.state = state
        elif isinstance(target, NumpyType):
            target.order = {"<": "<", ">": ">"}.get(state[1], "=")
        else:
            # attributes of an OrderedDict, such as _metadata: nobody needs them
            _plain(target, dict)
        self.stack.append(target)


OPERATIONS: dict[str, Callable[[Unpickler], None]] = {
    "MARK": lambda m: m._mark(),
    "TUPLE": lambda m: m._push(tuple(m._marked())),
    "FROZENSET": lambda m: m._push(frozenset(map(_key, m._marked()))),
    "APPEND": lambda m: m._extend(m._popped(1)),
    "APPENDS": lambda m: m._extend(m._marked()),
    "SETITEM": lambda m: m._update(m._popped(2)),
    "SETITEMS": lambda m: m._update(m._marked()),
    "ADDITEMS": lambda m: m._add(m._marked()),
    "REDUCE": lambda m: m._make(*m._popped(2)),
    "NEWOBJ": lambda m: m._make(*m._popped(2)),
    "NEWOBJ_EX": lambda m: m._make(*m._popped(3)[:2]),
    "BUILD": lambda m: m._build(*m._popped(2)),
    "BINPERSID": lambda m: m.stack.append(_storage(*m._popped(1)[0])),
}
LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
CONSTANTS: dict[str, Callable[[], Any]] = {
    **{"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False},
    **{"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set},
}


def _plain(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def _key(value: Any) -> Any:
    """A dict key or set member. Nothing nested: hashing what is nested deeply enough would end the
    process.
    """
    if value is not None and not isinstance(value, (str, bytes, int, float, Global)):
        raise TypeError(f"a {type(value).__name__} as a key")
    return value


@dataclass(eq=False)
class NumpyType:
    """The dtype of a pickled NumPy number."""

    code: str
    order: str = "="


def _numpy_type(code: str, *_: Any) -> NumpyType:
    if not re.fullmatch("b1|[iu][1248]|f[248]", code):
        raise ValueError(f"NumPy type {code}")
    return NumpyType(code)


def _numpy_scalar(kind: NumpyType, data: bytes) -> bool | int | float:
    dtype = np.dtype(_plain(kind, NumpyType).code).newbyteorder(kind.order)
    return np.frombuffer(_plain(data, bytes), dtype, 1)[0].item()


def _latin1(text: str, encoding: str) -> bytes:
    """How protocol 2 writes bytes."""
    if encoding != "latin1":
        raise ValueError("an unknown encoding")
    return _plain(text, str).encode("latin-1")


def _storage(tag: str, kind: Global, key: str, _location: str, count: int) -> Storage:
    if tag != "storage" or _plain(count, int) < 0:
        raise ValueError(f"a storage of type {kind.name}")
    return Storage(STORAGES[kind.name], _plain(key, str), count)


def _tensor(storage: Storage, offset: int, shape: tuple, stride: tuple, *_: Any) -> StoredTensor:
    """`_`: whether it requires a gradient, and hooks."""
    numbers = [_plain(n, int) for n in (offset, *shape, *stride)]
    last = offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    count = _plain(storage, Storage).count
    if not 0 <= min(numbers) <= max(numbers) < LARGEST or (0 not in shape and last >= count):
        raise ValueError(f"a tensor {shape} that its storage does not hold")
    return StoredTensor(storage, offset, tuple(shape), tuple(stride))


STORAGES = {
    **{"DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16},
    **{"BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32},
    **{
        "ShortStorage": torch.int16,
        "CharStorage": torch.int8,
        "ByteStorage": torch.uint8,
        "BoolStorage": torch.bool,
    },
}
DATA_TYPES = (
    *("object", "bool", "int", "float", "complex", "str", "bytes", "bytearray"),
    *("list", "dict", "tuple", "slice", "range"),
)

# What a name stands for when it is called; None: it is only named, or its objects are stood for.
KNOWN: dict[tuple[str, str], Callable[..., Any] | None] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: _plain(data, StoredTensor),
    ("collections", "OrderedDict"): lambda pairs=(): OrderedDict(
        (_key(key), value) for key, value in pairs
    ),
    ("collections", "defaultdict"): lambda *_: {},
    ("_codecs", "encode"): _latin1,
    ("numpy", "dtype"): _numpy_type,
    ("numpy", "ndarray"): None,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): None for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _numpy_scalar for core in ("core", "_core")},
    **{
        (module, "set"): lambda items=(): set(map(_key, items))
        for module in ("builtins", "__builtin__")
    },
    **{
        (module, "frozenset"): lambda items=(): frozenset(map(_key, items))
        for module in ("builtins", "__builtin__")
    },
    **{("torch", name): None for name in ("Size", "device", *STORAGES)},
    **{("torch", str(dtype).removeprefix("torch.")): None for dtype in STORAGES.values()},
    **{(module, kind): None for module in ("builtins", "__builtin__") for kind in DATA_TYPES},
    **{
        (module, f"{kind}Path"): None
        for module in ("pathlib", "pathlib._local")  # as of Python 3.13
        for kind in ("Posix", "Windows", "PurePosix", "PureWindows")
    },
    ("_io", "BytesIO"): None,  # TransformerEngine keeps streams of bytes
}
