"""FVD's features: whatever TorchScript is called as the field's I3D is."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diagd_cli.errors import UsageError, WeightsError
from diagd_cli.jobs.evaluation.i3d import I3d


class Means(nn.Module):
    """Stands for I3D, which is not distributed with diagd: the mean of each colour, as features."""

    def forward(
        self, x: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False
    ) -> Tensor:
        return x.mean((2, 3, 4)) / 255 if rescale and resize and return_features else x


@pytest.fixture
def file(tmp_path):
    torch.jit.script(Means()).save(tmp_path / "i3d.pt")
    return tmp_path / "i3d.pt"


def test_features(file):
    frames = np.zeros((10, 8, 8, 3), np.uint8)
    frames[..., 1] = 255
    assert I3d(file).features(frames) == pytest.approx([0, 1, 0])


def test_failures(file, tmp_path):
    with pytest.raises(UsageError, match="FVD needs 10 new frames or more, not 9"):
        I3d(file).features(np.zeros((9, 8, 8, 3), np.uint8))
    with pytest.raises(WeightsError, match="there is no such file"):
        I3d(tmp_path / "gone.pt")
    (tmp_path / "text.pt").write_text("text")
    with pytest.raises(WeightsError, match="not a TorchScript file"):
        I3d(tmp_path / "text.pt")
    torch.jit.script(nn.Identity()).save(tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="is not I3D as it is called here"):
        I3d(tmp_path / "other.pt").features(np.zeros((10, 8, 8, 3), np.uint8))
