"""Layers of the Cosmos video tokenizers, on clips [B, C, T, H, W]: causal factorised convolutions,
3-D Haar patches.

Where float rounding can show in a pixel, operations are those of the official code in its order:
frames are truncated to 8 bits, so that the last bit of a float decides now and then. What is large
goes frame by frame, which bounds memory. Parameters have the official names and shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AT_ONCE = 1 << 22  # elements of a clip that is not taken apart


def patch(x: Tensor, size: int) -> Tensor:
    """[B, C, 1 + size*m, H, W] -> [B, C * size**3, 1 + m, H/size, W/size] by log2(size) levels of
    Haar analysis.

    The first frame counts as `size` equal frames. Channels: the 8 bands of the last level (time,
    height, width, low before high, width fastest), in each the bands of the level before, then the
    colours.
    """
    x = torch.cat([x[:, :, :1].expand(-1, -1, size - 1, -1, -1), x], dim=2)
    for _ in range(size.bit_length() - 1):
        # [B, C, T, 2, H, 2, W, 2]
        x = x.unflatten(4, (-1, 2)).unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
        for axis in (3, 5, 7):
            x = _butterfly(x, axis, 0.5)
        x = x.permute(0, 3, 5, 7, 1, 2, 4, 6).flatten(1, 4)
    return x


def unpatch(x: Tensor, size: int) -> Tensor:
    """The inverse of `patch`."""
    for _ in range(size.bit_length() - 1):
        x = x.unflatten(1, (2, 2, 2, -1))  # [B, 2, 2, 2, C, T, H, W]
        for axis in (3, 2, 1):
            x = _butterfly(x, axis, math.sqrt(0.5))
        x = (
            x.mul_(2 * math.sqrt(2))
            .permute(0, 4, 5, 1, 6, 2, 7, 3)
            .flatten(6, 7)
            .flatten(4, 5)
            .flatten(2, 3)
        )
    return x[:, :, size - 1 :]


def _butterfly(x: Tensor, axis: int, scale: float) -> Tensor:
    """(a, b) -> (a + b, a - b), scaled, along an axis of two."""
    a, b = (part * scale for part in x.unbind(axis))
    return torch.stack([a + b, a - b], axis)


def frames(x: Tensor) -> Tensor:
    """[B, C, T, ...] -> [B*T, C, ...]."""
    return x.transpose(1, 2).flatten(0, 1)


def clips(x: Tensor, batch: int) -> Tensor:
    """[B*T, C, ...] -> [B, C, T, ...]."""
    return x.unflatten(0, (batch, -1)).transpose(1, 2)


def by_frame(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """function(x), for one that treats every frame alone, without the temporaries of all frames at
    once.
    """
    if x.numel() <= AT_ONCE or x.shape[2] == 1:
        return function(x)
    return _joined((function(frame) for frame in x.split(1, dim=2)), x.shape[2])


def _joined(parts: Iterator[Tensor], count: int) -> Tensor:
    """[B, C, count, H, W] of as many frames [B, C, 1, H, W]."""
    first = next(parts)
    out = first.new_empty(*first.shape[:2], count, *first.shape[3:])
    out[:, :, :1] = first
    for n, part in enumerate(parts, 1):
        out[:, :, n : n + 1] = part
    return out


def swish(x: Tensor) -> Tensor:
    """x * sigmoid(x), which F.silu rounds otherwise."""
    return x.sigmoid().mul_(x)


class Conv(nn.Module):
    """Convolution in space (1 x s x s), in time (t x 1 x 1) or of single values.

    In time it is causal: the first frame is repeated before the clip. In space it is padded with
    zeros; under a stride, only with a column and a row at the far end.
    """

    def __init__(self, inputs: int, outputs: int, time: int = 1, space: int = 1, stride: int = 1):
        super().__init__()
        in_time, in_space = (stride, 1) if time > 1 else (1, stride)
        self.conv3d = nn.Conv3d(
            inputs, outputs, (time, space, space), (in_time, in_space, in_space)
        )
        self.before = max(0, time - stride)
        self.margin = (0, 1, 0, 1) if in_space > 1 else (space // 2,) * 4

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() <= AT_ONCE:
            x = (
                torch.cat([x[:, :, :1].expand(-1, -1, self.before, -1, -1), x], dim=2)
                if self.before
                else x
            )
            return self.conv3d(self._padded(x))
        taps, stride = self.conv3d.kernel_size[0], self.conv3d.stride[0]
        count = (x.shape[2] + self.before - taps) // stride + 1
        return _joined((self._frame(x, n * stride - self.before) for n in range(count)), count)

    def _frame(self, x: Tensor, start: int) -> Tensor:
        """One frame of the result [B, C, 1, H, W], as a sum of 2-D convolutions of the frames from
        `start` on.
        """
        weight, bias, stride = self.conv3d.weight, self.conv3d.bias, self.conv3d.stride[1]
        first, *later = (self._padded(x[:, :, max(0, start + k)]) for k in range(weight.shape[2]))
        y = F.conv2d(first, weight[:, :, 0], bias, stride)
        for k, frame in enumerate(later, 1):
            y += F.conv2d(frame, weight[:, :, k], None, stride)
        return y.unsqueeze(2)

    def _padded(self, x: Tensor) -> Tensor:
        return F.pad(x, self.margin) if any(self.margin) else x


def factorised(inputs: int, outputs: int) -> nn.Sequential:
    """A 3x3x3 convolution as one in space and one in time, with nothing between."""
    return nn.Sequential(Conv(inputs, outputs, space=3), Conv(outputs, outputs, time=3))


class Norm(nn.Module):
    """Group norm with one group, of each frame by itself: no statistic crosses frames."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.GroupNorm(1, channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return clips(self.norm(frames(x)), len(x))


def activated(norm: Norm, conv: nn.Sequential, x: Tensor) -> Tensor:
    """conv(swish(norm(x))) with a factorised convolution."""
    in_space, in_time = conv
    return in_time(by_frame(lambda frame: in_space(swish(norm(frame))), x))


class ResBlock(nn.Module):
    """x + conv(swish(norm(conv(swish(norm(x))))))."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.norm1, self.conv1 = Norm(inputs), factorised(inputs, outputs)
        self.norm2, self.conv2 = Norm(outputs), factorised(outputs, outputs)
        self.nin_shortcut = Conv(inputs, outputs) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = activated(self.norm2, self.conv2, activated(self.norm1, self.conv1, x))
        return y.add_(self.nin_shortcut(x))


class _Attention(nn.Module):
    """One head as wide as the channels."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = Norm(channels)
        self.q, self.k, self.v, self.proj_out = (Conv(channels, channels) for _ in range(4))


class SpatialAttention(_Attention):
    """Adds to each place of a frame what it sees at all places of that frame."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        q, k, v = (frames(conv(y)).flatten(2) for conv in (self.q, self.k, self.v))
        y = attend(q, k, v)
        return x + self.proj_out(clips(y.unflatten(2, x.shape[3:]), len(x)))


class TemporalAttention(_Attention):
    """Adds to each place of a frame what it sees there, in this frame and in those before."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        b, c, t, h, w = x.shape
        q, k, v = (
            conv(y).permute(0, 3, 4, 1, 2).reshape(-1, c, t) for conv in (self.q, self.k, self.v)
        )
        y = attend(q, k, v, causal=True).view(b, h, w, c, t)
        return x + self.proj_out(y.permute(0, 3, 4, 1, 2))


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """Attention with channels before places: q, k, v and the result are [N, C, places]."""
    scores = (q.mT @ k) * q.shape[1] ** -0.5
    if causal:
        later = torch.ones(scores.shape[1:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    return v @ scores.softmax(-1).mT


def attention(channels: int) -> nn.Sequential:
    """Attention within each frame, then along time."""
    return nn.Sequential(SpatialAttention(channels), TemporalAttention(channels))


class Middle(nn.Module):
    """Between the encoder's or decoder's levels and its latents."""

    def __init__(self, channels: int):
        super().__init__()
        self.block_1, self.attn_1 = ResBlock(channels, channels), attention(channels)
        self.block_2 = ResBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Downsample(nn.Module):
    """Halve space and/or time (1 + 2m -> 1 + m frames): strided convolution plus average, then a
    1x1x1 convolution.
    """

    def __init__(self, channels: int, space: bool, time: bool):
        super().__init__()
        self.conv1 = Conv(channels, channels, space=3, stride=2) if space else None
        self.conv2 = Conv(channels, channels, time=3, stride=2) if time else None
        self.conv3 = Conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.conv1 is not None:
            x = by_frame(self._halve, x)
        if self.conv2 is not None:
            x = torch.cat([x[:, :, :1], x], dim=2)
            x = self.conv2(x).add_(x.unflatten(2, (-1, 2)).mean(3))
        return self.conv3(x)

    def _halve(self, x: Tensor) -> Tensor:
        assert self.conv1 is not None  # `forward` has looked
        return self.conv1(x).add_(x.unflatten(4, (-1, 2)).unflatten(3, (-1, 2)).mean((4, 6)))


class Upsample(nn.Module):
    """Double time (1 + m -> 1 + 2m frames) and/or space: repeat, add a convolution, then a 1x1x1
    convolution.
    """

    def __init__(self, channels: int, space: bool, time: bool):
        super().__init__()
        self.conv1 = Conv(channels, channels, time=3) if time else None
        self.conv2 = Conv(channels, channels, space=3) if space else None
        self.conv3 = Conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        if self.conv1 is not None:
            x = x.repeat_interleave(2, dim=2)[:, :, 1:]
            x = self.conv1(x).add_(x)
        return by_frame(self._widen, x)

    def _widen(self, x: Tensor) -> Tensor:
        if self.conv2 is not None:
            x = x.repeat_interleave(2, dim=3).repeat_interleave(2, dim=4)
            x = self.conv2(x).add_(x)
        return self.conv3(x)
