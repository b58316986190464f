"""Settings of the whole suite: one thread, and how many examples hypothesis tries
(HYPOTHESIS_PROFILE).
"""

import functools
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import typer.testing
from hypothesis import HealthCheck, settings
from tiny import Tiny, make_tiny
from typer.testing import CliRunner

from diagd_cli.cli import console
from diagd_cli.cli.app import app
from diagd_cli.preset_files import preset_folder
from diagd_cli.processor import NATIVE_BFLOAT16, NATIVE_INT8

torch.set_num_threads(1)
# a suite that runs as a background job is deaf to Ctrl-C
signal.signal(signal.SIGINT, signal.default_int_handler)

slow = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
settings.register_profile("default", max_examples=20, derandomize=True, **slow)
settings.register_profile("thorough", max_examples=2000, **slow)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# typer's runner builds the whole command line anew for every call, which takes as long as a tiny
# decoding.
typer.testing._get_command = functools.cache(typer.testing._get_command)

for variable in [name for name in os.environ if name.startswith("DIAGD_")]:
    if variable not in (
        NATIVE_BFLOAT16,
        NATIVE_INT8,
    ):  # which make the whole suite believe in another processor
        del os.environ[variable]
os.environ.pop("COLUMNS", None)  # which several processes of tests set, and which tables heed


# What takes long runs first: at the end of the run no process waits for the other.
FIRST = ("test_compile", "test_parallel", "test_digests", "test_benchmarks", "test_memory", "test_diagonal",
         "test_loop", "test_wheel", "test_portable", "test_room", "test_ballot", "test_docs", "test_cluster",
         "test_devices")  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """By whole files, whose tests share what they have made."""
    items.sort(key=lambda item: item.path.stem not in FIRST)


@dataclass(frozen=True)
class Done:
    """What a run of the command line left: exit code, stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def objects(self) -> list[dict]:
        """What --json printed."""
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture(scope="session")
def diagd():
    """Runs the command line in this process, as in diagd("generate", clip, "--frames", 2)."""

    def run(*arguments, **environment) -> Done:
        done = CliRunner().invoke(
            app, [str(a) for a in arguments], env=environment, catch_exceptions=False
        )
        return Done(done.exit_code, done.stdout, done.stderr)

    return run


def hear() -> None:
    """What a background job's children are deaf to, and what those of nohup are."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def start():
    """Starts the command line in a process of its own, which is ended with the test."""
    started = []

    def run(*arguments, **options) -> subprocess.Popen:
        command = [sys.executable, "-m", "diagd_cli", *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(
            subprocess.Popen(
                command, start_new_session=True, **{"preexec_fn": hear, **pipes, **options}
            )
        )
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(autouse=True)
def no_lines_of_progress(monkeypatch):
    """On a slow or busy machine any command would tell of its progress, where tests say what else
    it tells.
    """
    monkeypatch.setattr(console, "LINE_EVERY", math.inf)


@pytest.fixture(params=["0", "1"], ids=["cpu-without-bfloat16", "cpu-with-bfloat16"])
def each_processor(request, monkeypatch):
    """Runs a test as on a CPU without bfloat16 products, and as on one that has them: in this
    process and its children.
    """
    monkeypatch.setenv(NATIVE_BFLOAT16, request.param)


@pytest.fixture
def int8_processor(monkeypatch):
    """Runs a test as on a CPU with products of int8, in this process and its children."""
    monkeypatch.setenv(NATIVE_INT8, "1")


@pytest.fixture(scope="session")
def clips() -> Path:
    """The folder of the shipped clips: 44 frames of 120x160 pixels at 17.5 frames a second, with
    their actions.
    """
    return preset_folder() / "freedoom" / "clips"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Tiny:
    return make_tiny(tmp_path_factory.mktemp("tiny"))
