"""Two processes as torchrun starts them, which go through several command lines: importing torch
takes most of their time.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from conftest import Done

# The command line, or the function of another module, once for each list of arguments, the first as
# torchrun has it and the others with a port of their own to meet at; \f parts what it tells.
IN_TURN = """
import json, os, sys
from importlib import import_module
for port, words in json.loads(sys.argv[1]):
    if port:
        os.environ |= {"MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "False"}
    module, _, function = words[0].partition(":")
    name, words = (module, words[1:]) if function else ("diagd_cli.__main__", words)
    code, sys.argv = 0, ["diagd", *words]
    streams = [os.dup(1), os.dup(2)]  # which a silent process sends nowhere
    try: getattr(import_module(name), function or "main")()
    except SystemExit as end: code = int(end.code or 0)
    sys.stdout.flush()
    for number, stream in enumerate(streams, 1): os.dup2(stream, number)
    for stream in (sys.stdout, sys.stderr): print(f"\\f{code}\\f", end="", file=stream, flush=True)
"""


def in_two_processes(folder: Path, lines: list[list]) -> tuple[list[list[Done]], Done]:
    """What each of the two does of each line, and what torchrun itself says.

    folder: for a script and what they tell.
    lines: arguments of diagd, or `MODULE:FUNCTION` and those that it finds in sys.argv.
    """
    ports = [None, *(_free_port() for _ in range(len(lines) - 1))]
    words = [[str(word) for word in line] for line in lines]
    (folder / "in_turn.py").write_text(IN_TURN)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    logs = [f"--log-dir={folder / 'logs'}", "--redirects=3"]  # a file for each stream of each
    script = [str(folder / "in_turn.py"), json.dumps([*zip(ports, words, strict=True)])]
    machine = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, *launch, *logs, *script],
        env={**os.environ, **machine},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.returncode == 0, run.stderr
    folders = sorted(log.parent for log in (folder / "logs").glob("*/attempt_0/*/stdout.log"))
    assert len(folders) == 2
    both = zip(*(_told(each, len(lines)) for each in folders), strict=True)
    return [[*done] for done in both], Done(run.returncode, run.stdout, run.stderr)


def _told(folder: Path, count: int) -> list[Done]:
    """Code, stdout and stderr of each of the lines that a process went through."""
    out, err = ((folder / f"{name}.log").read_text().split("\f") for name in ("stdout", "stderr"))
    return [Done(int(out[n + 1]), out[n], err[n]) for n in range(0, 2 * count, 2)]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
