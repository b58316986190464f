"""Features of whole videos for the Frechet Video Distance (FVD), by the field's I3D, a TorchScript
file of the user's.

A TorchScript file is a program: it is run as it is. Nothing here opens one that the user has not
named.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from diagd_cli.errors import UsageError, WeightsError, one_line

LEAST = 10  # frames; I3D halves time several times


class I3d:
    """I3D in the form that StyleGAN-V made common: called with rescale, resize and return_features.

    Raises WeightsError for a file that is not TorchScript or is not called so.
    """

    def __init__(self, path: Path, device: torch.device | str = "cpu"):
        self.path, self.device = path, torch.device(device)
        try:
            self.model = torch.jit.load(path, map_location=self.device).eval()
        except (RuntimeError, OSError, ValueError) as error:
            reason = "there is no such file" if not path.exists() else "not a TorchScript file"
            raise WeightsError(
                f"{path} cannot be loaded: {reason}", "Give i3d_torchscript.pt"
            ) from error

    @torch.inference_mode()
    def features(self, frames: np.ndarray) -> np.ndarray:
        """One vector float32 [D] (of I3D: 400) of a video, frames uint8 [F, H, W, 3].

        Raises UsageError for short ones.
        """
        if len(frames) < LEAST:
            raise UsageError(
                f"FVD needs {LEAST} new frames or more, not {len(frames)}", "Ask for more --frames"
            )
        video = (
            torch.from_numpy(np.ascontiguousarray(frames))
            .to(self.device)
            .permute(3, 0, 1, 2)
            .float()
        )
        try:
            made = self.model(video[None], rescale=True, resize=True, return_features=True)
            return made.flatten().float().cpu().numpy()
        except (RuntimeError, AttributeError, TypeError) as error:
            message = f"{self.path} is not I3D as it is called here: {one_line(error)}"
            hint = (
                "It must take videos [B, 3, F, H, W] in 0..255 with rescale, resize and "
                "return_features"
            )
            raise WeightsError(message, hint) from error
