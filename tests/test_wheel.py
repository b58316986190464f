"""The wheel holds all that `diagd generate` needs: code, presets, weights and sample clips; and the
templates of pages.
"""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_wheel_generates_outside_the_repository(tmp_path):
    build = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(build, check=True, capture_output=True)
    [wheel] = tmp_path.glob("diagd-*.whl")
    unpacked = tmp_path / "unpacked"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    templates = {
        path.name for path in (ROOT / "diagd_cli" / "report" / "pages").iterdir() if path.is_file()
    }
    assert "vote.html" in templates
    assert templates == {
        path.name
        for path in (unpacked / "diagd_cli" / "report" / "pages").iterdir()
        if path.is_file()
    }
    clip = unpacked / "diagd_cli" / "presets" / "freedoom" / "clips" / "rooms.mp4"
    options = ["--context", "1", "--frames", "1", "--json", "-o", "out/"]
    command = [sys.executable, "-m", "diagd_cli", "generate", str(clip), *options]
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["new_frames"] == 1
    assert (tmp_path / "out" / "rooms.mp4").stat().st_size > 0
