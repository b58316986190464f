"""The Python API: the story that the pipeline's docstring tells, run."""

import threading
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import TINY, moving, save_clip
from yaml import safe_load

from diagd_cli.clip.read import read_clip
from diagd_cli.engine.decode import execute
from diagd_cli.engine.windows import window_parts
from diagd_cli.errors import OutputError, UsageError
from diagd_cli.model.transformer import Transformer
from diagd_cli.pipeline import (
    FRAMES_AT_ONCE,
    Request,
    continue_clip,
    continue_clips,
    encode,
    load,
    start_session,
    to_frames,
)
from diagd_cli.preset import Preset
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.schedule.plan import build_plan


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
    assert (result.codes.shape, result.context, result.tokens) == (
        (5, 15, 20),
        4,
        300,
    ) and result.steps < 300
    assert result.rates["tokens_per_second"] == pytest.approx(300 / result.seconds["decode"])


SHARP = {"temperature": 0.8, "top_k": 7, "top_p": 0.9, "top_p_rule": "strict"}


@pytest.fixture(scope="module")
def sharp(loaded):
    """The tiny model by a preset with a sampling of its own."""
    decoding = loaded.preset.decoding.model_copy(update=SHARP)
    return replace(loaded, preset=loaded.preset.model_copy(update={"decoding": decoding}))


def test_a_request_has_the_sampling_of_the_preset(sharp, tiny):
    """It cannot be forgotten: not even where a Request is made by hand."""
    assert sharp.request(seed=3).sampling.facts == SHARP
    assert sharp.request().frames == sharp.preset.clip.frames
    assert sharp.request(2, seed=1, top_k=0, temperature=0).sampling.facts == {
        **SHARP,
        "top_k": 0,
        "temperature": 0,
    }
    clip = read_clip(tiny.clip, 2)
    codes = [
        continue_clip(sharp, clip, made).codes
        for made in (
            sharp.request(3, 0),
            request(sharp),
            request(sharp, sampling=sharp.preset.sampling(**SHARP)),
            request(sharp, sampling=sharp.preset.sampling(top_k=2, temperature=3.0)),
        )
    ]
    assert (
        (codes[0] == codes[1]).all()
        and (codes[0] == codes[2]).all()
        and (codes[0] != codes[3]).any()
    )
    with pytest.raises(TypeError, match="top_q"):
        sharp.request(top_q=1)
    with pytest.raises(UsageError, match="Unknown rule of top_p 'strct'"):
        sharp.request(top_p_rule="strct")


def test_a_request_for_a_clip_is_steered_as_the_command_line_does(diagd, loaded, tiny, tmp_path):
    clip = read_clip(save_clip(tmp_path / "a.mp4", moving(4)), 2)
    (tmp_path / "a.jsonl").write_text('{"action": "left"}\n' * 4)
    asked = {"recorded": (None, []), "given": ("right", ["--actions", "right"])}
    for name, (actions, options) in asked.items():
        made = continue_clip(
            loaded, clip, loaded.request(3, seed=5, clip=clip, actions=actions)
        ).codes
        target = tmp_path / f"{name}.mp4"
        arguments = [
            "-p",
            tiny.preset,
            "-o",
            target,
            "--frames",
            3,
            "--context",
            2,
            "--seed",
            5,
            "--save-tokens",
        ]
        assert diagd("generate", clip.path, *arguments, *options).code == 0
        assert (np.load(target.with_suffix(".npz"))["codes"] == made).all()
    with pytest.raises(UsageError, match="Give the clip too"):
        loaded.request(actions="left")


def test_the_device_and_dtype_of_the_command_line_are_auto(tiny):
    loaded = load(str(tiny.preset), "auto", "auto")
    assert loaded.dtype == torch.float32 and loaded.device.type == (
        "cuda" if torch.cuda.is_available() else "cpu"
    )


def test_context_is_kept_and_then_continued(loaded, tiny):
    clip = read_clip(tiny.clip, 2)
    result = continue_clip(loaded, clip, request(loaded))
    context = loaded.tokenizer.encode(torch.from_numpy(clip.frames)).numpy()
    assert (result.codes[:2] == context).all() and result.codes.shape == (5, 2, 3)
    assert list(result.seconds) == ["encode", "prefill", "decode", "pixels"]


def test_clips_are_independent(loaded, tiny, tmp_path):
    clip, other = (
        read_clip(tiny.clip, 2),
        read_clip(save_clip(tmp_path / "b.mp4", moving(5)[::-1]), 2),
    )
    first = continue_clip(loaded, clip, request(loaded)).codes
    continue_clip(loaded, other, request(loaded, seed=5))
    assert (continue_clip(loaded, clip, request(loaded)).codes == first).all()


def test_stages_and_steps_are_told(loaded, tiny):
    stages, steps = [], []

    @contextmanager
    def stage(name):
        stages.append(name)
        yield

    told = continue_clip(
        loaded, read_clip(tiny.clip, 2), request(loaded), stage, lambda *s: steps.append(s)
    )
    assert stages == ["encode", "decode", "pixels"]
    assert steps == [(n, told.steps) for n in range(1, told.steps + 1)]
    assert (
        told.codes == continue_clip(loaded, read_clip(tiny.clip, 2), request(loaded)).codes
    ).all()


@pytest.mark.parametrize("decoding", [Decoding("ntp"), Decoding("diagd", 1, 1)])
@pytest.mark.parametrize("frames", [3, 8])
def test_frames_are_complete_at_the_steps_that_the_plan_says(
    loaded, tiny, monkeypatch, decoding, frames
):
    """By a clock that counts steps; with 8 frames the window rolls."""
    clock = [0.0]
    monkeypatch.setattr("diagd_cli.engine.session.time.perf_counter", lambda: clock[0])

    def ticking(*arguments):
        for done in execute(*arguments):
            clock[0] += 1
            yield done

    monkeypatch.setattr("diagd_cli.engine.state.execute", ticking)
    result = continue_clip(
        loaded, read_clip(tiny.clip, 2), request(loaded, frames=frames, decoding=decoding)
    )
    grid, parts, expected, before = loaded.preset.grid, window_parts(2, frames, 5, 2), [], 0
    for known, new in parts:
        plan = build_plan(grid, known, new, decoding)
        k, d, *_ = decoding.resolve(grid, known)
        expected += [before + t * d + (grid.h - 1) * k + grid.w for t in range(new)]
        before += plan.steps
    assert result.completed == expected and expected[-1] == result.steps


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
    with pytest.raises(
        UsageError,
        match=r"The context is 1 frame\(s\). The preset tiny takes 2 to 5 context frames",
    ):
        continue_clip(loaded, read_clip(tiny.clip, 1), request(loaded))


def test_pixels_in_parts_are_the_same(loaded):
    codes = np.random.default_rng(0).integers(0, 25, (2 * FRAMES_AT_ONCE + 3, 2, 3))
    frames = to_frames(loaded, codes)
    assert (frames == loaded.tokenizer.decode(torch.from_numpy(codes)).numpy()).all()


def test_a_stamp_is_shown_and_not_measured(loaded, tiny):
    """Of `frames`, streamed ones included, it covers a part; `pixels` are the tokenizer's own."""
    marked, shown = (
        replace(loaded, preset=loaded.preset.model_copy(update={"stamp": ("made by a model")})),
        [],
    )
    result = continue_clip(
        marked, read_clip(tiny.clip, 2), request(loaded), on_frames=lambda n, f: shown.append(f)
    )
    plain = continue_clip(loaded, read_clip(tiny.clip, 2), request(loaded))
    assert np.array_equal(result.pixels, plain.pixels) and np.array_equal(
        plain.frames, plain.pixels
    )
    assert (
        np.array_equal(np.concatenate(shown), result.frames)
        and (result.frames != plain.frames).any((1, 2, 3)).all()
    )


def test_a_session_goes_on_after_what_was_requested(loaded, tiny):
    """Its window is as long as the request; when that is full it rolls."""
    codes = encode(loaded, read_clip(tiny.clip, 2))[None]
    actions = np.tile(loaded.preset.actions.rest, (12, 1))
    session = start_session(loaded, codes, [request(loaded, frames=1, actions=actions)])
    session.conditioning = actions[None]
    for total in (3, 4, 6):
        for _ in session.extend(total - session.latents, Decoding("diagd", 1, 2)):
            pass
        assert session.latents == total


# ---- batches -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def walks(tiny, tmp_path_factory):
    """Three clips with a context of two frames each."""
    folder = tmp_path_factory.mktemp("walks")
    others = [save_clip(folder / f"{n}.mp4", moving(5 + n, 32 + n)[::-1]) for n in range(2)]
    return [read_clip(path, 2) for path in (tiny.clip, *others)]


@pytest.mark.parametrize(
    "decoding", [Decoding("ntp"), Decoding("spatial", 2), Decoding("diagd", 1, 2)]
)
@pytest.mark.parametrize("frames", [1, 3, 8])
def test_clips_of_a_batch_are_the_clips_alone(loaded, walks, decoding, frames):
    """Each with its own seed and actions, also where the window rolls (8 frames)."""
    rng, kind = np.random.default_rng(0), loaded.preset.actions
    rows = [None, *(kind.offset + rng.integers(0, 4, (2 + frames, 1)) for _ in range(2))]
    requests = [
        request(loaded, frames=frames, decoding=decoding, seed=n % 2, actions=actions)
        for n, actions in enumerate(rows)
    ]
    together = continue_clips(loaded, walks, requests)
    for clip, asked, made in zip(walks, requests, together, strict=True):
        alone = continue_clip(loaded, clip, asked)
        assert (made.codes == alone.codes).all() and (made.frames == alone.frames).all()
        assert (made.steps, made.tokens) == (alone.steps, alone.tokens) == (alone.steps, frames * 6)
    assert len({made.codes[2:].tobytes() for made in together}) == 3


def test_texts_of_a_batch_are_each_for_its_own_clip(walks):
    settings = safe_load(TINY) | {"actions": None, "text": {"encoder": "none", "length": 4}}
    settings["transformer"] |= {"cross_dim": 5}
    loaded = load(Preset.model_validate(settings), random=0)
    # so that they count
    texts = [None, *1e4 * torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))]
    requests = [
        request(loaded, text=text, sampling=loaded.preset.sampling(temperature=0.0))
        for text in texts
    ]
    together = continue_clips(loaded, [walks[0]] * 3, requests)
    alone = [continue_clip(loaded, walks[0], asked) for asked in requests]
    assert [made.codes.tolist() for made in together] == [made.codes.tolist() for made in alone]
    assert len({made.codes.tobytes() for made in together}) > 1


def test_throughput_counts_all_clips_of_a_batch_once(loaded, walks):
    results = continue_clips(loaded, walks, [request(loaded, seed=n) for n in range(3)])
    assert results[0].seconds == results[1].seconds and [made.batch for made in results] == [
        3,
        3,
        3,
    ]
    assert results[0].rates["tokens_per_second"] == pytest.approx(
        3 * 18 / results[0].seconds["decode"]
    )
    assert results[0].rates["frames_per_second"] == pytest.approx(
        3 * 3 / results[0].seconds["decode"]
    )


def test_batches_that_cannot_be(loaded, tiny, walks):
    with pytest.raises(ValueError, match="have \\[2, 3\\] context frames"):
        continue_clips(loaded, [walks[0], read_clip(tiny.clip, 3)], [request(loaded)] * 2)
    with pytest.raises(ValueError, match="differ in seed, actions, text and label only"):
        continue_clips(
            loaded,
            walks[:2],
            [request(loaded), request(loaded, sampling=loaded.preset.sampling(top_k=1))],
        )
    with pytest.raises(ValueError, match="3 clips and 1 requests"):
        continue_clips(loaded, walks, [request(loaded)])


# ---- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames, held", [(1, 3), (3, 5), (9, 5)])
def test_the_cache_holds_what_is_needed_and_no_more_than_the_window(
    loaded, walks, monkeypatch, frames, held
):
    made, new_cache = [], Transformer.new_cache
    monkeypatch.setattr(Transformer, "new_cache", lambda *a: made.append(new_cache(*a)) or made[-1])
    continue_clip(loaded, walks[0], request(loaded, frames=frames))
    # and one where padded lanes write
    assert [cache.slots for cache in made] == [held * (6 + 1) + 1]


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_a_smaller_cache_makes_as_much(loaded, walks, monkeypatch, kind):
    made, new_cache = [], Transformer.new_cache
    monkeypatch.setattr(Transformer, "new_cache", lambda *a: made.append(new_cache(*a)) or made[-1])
    small, usual = (
        continue_clip(loaded, walks[0], request(loaded), kv_dtype=k) for k in (kind, None)
    )
    assert small.codes.shape == usual.codes.shape and small.tokens == usual.tokens
    assert made[0].keys.dtype == kind and 2 * made[0].bytes == made[1].bytes


# ---- frames while they are made ------------------------------------------------------------------


@pytest.fixture(scope="module")
def causal():
    """A preset whose tokenizer makes 8 frames a latent frame, each from those before it; random
    weights.
    """
    clip = {"height": 32, "width": 48, "fps": 10, "context": 9, "frames": 20, "window": 33}
    codec = {
        "kind": "cosmos-dv",
        "levels": [5, 5],
        "channels": 8,
        "multipliers": [1, 2, 2],
        "blocks": 1,
    }
    return load(
        Preset.model_validate(
            safe_load(TINY) | {"clip": clip, "tokenizer": codec, "actions": None}
        ),
        random=0,
    )


def taken(loaded, clips, requests):
    """The results, and each clip's frames as they were handed over."""
    parts = [[] for _ in clips]
    results = continue_clips(
        loaded, clips, requests, on_frames=lambda n, frames: parts[n].append(frames)
    )
    return results, parts


def test_streamed_frames_are_those_of_the_end(loaded, walks):
    requests = [request(loaded, frames=8, seed=n) for n in range(3)]
    results, parts = taken(loaded, walks, requests)
    for usual, streamed, own in zip(
        continue_clips(loaded, walks, requests), results, parts, strict=True
    ):
        assert (np.concatenate(own) == usual.frames).all() and (
            streamed.frames == usual.frames
        ).all()
        assert sum(map(len, own)) == 10 and len(own) > 1
        assert streamed.first_frame > 0


def test_streamed_frames_of_a_causal_tokenizer(causal, tmp_path):
    """20 new frames are two and a half latent frames: what is too much is cut off."""
    clip = read_clip(save_clip(tmp_path / "a.mp4", moving(9, 32, 48)), 9)
    asked = request(causal, frames=20, decoding=Decoding("spatial", 2))
    [made], [parts] = taken(causal, [clip], [asked])
    usual = continue_clip(causal, clip, asked)
    difference = np.concatenate(parts).astype(int) - usual.frames
    # pixels are truncated: sums differ by a rounding
    assert len(made.frames) == 29 and np.abs(difference).max() <= 1
    assert (difference == 0).mean() > 0.999
    assert [len(part) for part in parts if len(part)][-1] == 4


def test_a_frame_is_handed_over_while_later_ones_are_made(loaded, walks):
    """The last step waits for the first new frame."""
    count, seen = [0], threading.Event()

    def on_frames(n, frames):
        count[0] += len(frames)
        if count[0] > 2:
            seen.set()

    def on_steps(done, total):
        assert done < total or seen.wait(30)

    made = continue_clip(loaded, walks[0], request(loaded), on_steps=on_steps, on_frames=on_frames)
    assert (
        made.first_frame < made.seconds["prefill"] + made.seconds["decode"] + made.seconds["pixels"]
    )


def test_whoever_takes_the_frames_may_fail(loaded, walks):
    def full(n, frames):
        raise OutputError("no space")

    with pytest.raises(OutputError, match="no space"):
        continue_clip(loaded, walks[0], request(loaded), on_frames=full)
