"""diagd starts where the system is no POSIX one: what Windows lacks is used only where it is
there.
"""

import os
import subprocess
import sys

# What Windows' Python does not have. Other packages are imported first: they have their own ways
# round it.
WITHOUT = """
import contextlib, importlib, os, pkgutil, signal, sys

for name in ("av", "imageio_ffmpeg", "numpy", "PIL.Image", "psutil", "pydantic", "rich"):
    importlib.import_module(name)
for name in ("safetensors.torch", "torch.distributed", "torch.nn.attention.flex_attention", "typer", "yaml"):
    importlib.import_module(name)
with contextlib.suppress(ImportError):
    import matplotlib.pyplot, transformers
with contextlib.suppress(ImportError):
    import triton

for name in ("fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"):
    sys.modules[name] = None
for name in ("fork", "geteuid", "getuid", "getloadavg", "killpg", "mkfifo", "sched_getaffinity", "sysconf", "uname"):
    os.__dict__.pop(name, None)
for name in ("SIGALRM", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGUSR1", "setitimer", "pthread_sigmask"):
    signal.__dict__.pop(name, None)
"""
IMPORT = """
import diagd_cli
for module in pkgutil.walk_packages(diagd_cli.__path__, "diagd_cli."):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:  # of kernels for CUDA, which only Linux has
        if error.name != "triton":
            raise
print("imported", sum(name.startswith("diagd_cli.") for name in sys.modules))
"""
HELP = """
from diagd_cli.__main__ import main
sys.argv = ["diagd", "--help"]
main()
"""


def run(program: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )


def test_every_module_is_imported_and_help_is_shown():
    done = run(WITHOUT + IMPORT + HELP)
    assert done.returncode == 0 and "Usage: diagd" in done.stdout, done.stderr
    assert int(done.stdout.split()[1]) > 100
