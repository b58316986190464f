"""Small files of any kind, made with the bundled ffmpeg; frame i of one is a grey that tells i."""

import subprocess

import imageio_ffmpeg
import numpy as np

X264 = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"]
STEP = 8  # of brightness, from one frame to the next


def ffmpeg(*arguments, data=b""):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


def film(path, *options, count=24, fps="20", size="64x48", source=None):
    """`count` frames at `fps`, coded as `options` say; `source` is another of ffmpeg's than the
    greys.
    """
    greys = f"color=black:s={size}:r={fps},geq=lum=20+{STEP}*mod(N\\,24):cb=128:cr=128"
    ffmpeg("-f", "lavfi", "-i", source or greys, "-frames:v", count, *options, f"file:{path}")
    return path


def numbers(frames):
    """Which frames of a film those are, uint8 [F, H, W, 3]."""
    height, width = frames.shape[1:3]
    middle = frames[:, height // 4 : -height // 4, width // 4 : -width // 4].mean((1, 2, 3))
    return [round((grey * 219 / 255 - 4) / STEP) for grey in middle]


def decoded(path, *filters):
    """What ffmpeg itself makes of a file's frames, as one row of uint8."""
    shown = [
        "-map",
        "0:V:0",
        "-fps_mode",
        "passthrough",
        *filters,
        "-pix_fmt",
        "rgb24",
        "-f",
        "rawvideo",
        "-",
    ]
    return np.frombuffer(ffmpeg("-i", path, *shown), np.uint8)
