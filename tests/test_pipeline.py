"""The Python API: the story that the pipeline's docstring tells, run."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import moving, save_clip

from diagd_cli.clip.read import read_clip
from diagd_cli.errors import UsageError
from diagd_cli.pipeline import FRAMES_AT_ONCE, Request, continue_clip, load, to_frames


@pytest.fixture(scope="module")
def loaded(tiny):
    return load(str(tiny.preset))


def request(loaded, **changes):
    return replace(Request(frames=3, decoding=loaded.preset.decoding.decoding, seed=0), **changes)


def test_shipped_preset(clips):
    loaded = load("freedoom")
    clip = read_clip(clips / "lights.mp4", context=loaded.preset.clip.context)
    result = continue_clip(loaded, clip, request(loaded, frames=1))
    assert (result.frames.shape, result.frames.dtype) == ((5, 120, 160, 3), np.uint8)
    assert (result.codes.shape, result.context, result.tokens) == ((5, 15, 20), 4, 300) and result.steps < 300
    assert result.rates["tokens_per_second"] == pytest.approx(300 / result.seconds["decode"])


def test_context_is_kept_and_then_continued(loaded, tiny):
    clip = read_clip(tiny.clip, 2)
    result = continue_clip(loaded, clip, request(loaded))
    context = loaded.tokenizer.encode(torch.from_numpy(clip.frames)).numpy()
    assert (result.codes[:2] == context).all() and result.codes.shape == (5, 2, 3)
    assert list(result.seconds) == ["encode", "prefill", "decode", "pixels"]


def test_clips_are_independent(loaded, tiny, tmp_path):
    clip, other = read_clip(tiny.clip, 2), read_clip(save_clip(tmp_path / "b.mp4", moving(5)[::-1]), 2)
    first = continue_clip(loaded, clip, request(loaded)).codes
    continue_clip(loaded, other, request(loaded, seed=5))
    assert (continue_clip(loaded, clip, request(loaded)).codes == first).all()


def test_stages_and_steps_are_told(loaded, tiny):
    stages, steps = [], []

    @contextmanager
    def stage(name):
        stages.append(name)
        yield

    told = continue_clip(loaded, read_clip(tiny.clip, 2), request(loaded), stage, lambda *s: steps.append(s))
    assert stages == ["encode", "decode", "pixels"]
    assert steps == [(n, told.steps) for n in range(1, told.steps + 1)]
    assert (told.codes == continue_clip(loaded, read_clip(tiny.clip, 2), request(loaded)).codes).all()


def test_actions_steer(loaded, tiny):
    clip, rows = read_clip(tiny.clip, 2), lambda *names: loaded.preset.actions.encode(list(names))
    left, right, free = (
        continue_clip(loaded, clip, request(loaded, actions=actions)).codes
        for actions in (rows("none", *["left"] * 4), rows("none", *["right"] * 4), None)
    )
    assert not (left == right).all() and not (left == free).all()


def test_any_size_of_frame(loaded, tmp_path):
    clip = read_clip(save_clip(tmp_path / "a.mp4", moving(2, 50, 30)), 2)
    assert continue_clip(loaded, clip, request(loaded)).frames.shape == (5, 16, 24, 3)


def test_too_few_frames(loaded, tiny):
    with pytest.raises(UsageError, match=r"The context is 1 frame\(s\). The preset tiny takes 2 to 5 context frames"):
        continue_clip(loaded, read_clip(tiny.clip, 1), request(loaded))


def test_pixels_in_parts_are_the_same(loaded):
    codes = np.random.default_rng(0).integers(0, 25, (2 * FRAMES_AT_ONCE + 3, 2, 3))
    frames = to_frames(loaded, codes)
    assert (frames == loaded.tokenizer.decode(torch.from_numpy(codes)).numpy()).all()
