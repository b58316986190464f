"""Training data: any clips become frames or tokens of any preset, once, and without being in memory
as a whole.
"""

import json
import shutil

import numpy as np
import pytest
import torch
from families.small import steer, write_small
from tiny import make_tiny, moving, save_clip

from diagd_cli.clip.read import read_clip
from diagd_cli.errors import ClipError, OutputError
from diagd_cli.pipeline import Loaded, encode_frames
from diagd_cli.preset_files import load_preset
from diagd_cli.train import clips, data
from diagd_cli.train.data import Tokens, load_episodes, load_tokens
from diagd_cli.train.transformer import Phase, Windows, WindowSampler
from diagd_cli.weights.load import load_tokenizer, random_tokenizer


@pytest.fixture(scope="module")
def preset(tiny):
    return load_preset(tiny.preset)


def loaded(preset, seed=None):
    codec = load_tokenizer(preset) if seed is None else random_tokenizer(preset, seed)
    return Loaded(preset, codec, None, torch.device("cpu"), torch.float32, 0.0)


def split(folder, lengths=(6, 5), **size):
    """Clips of these lengths in train/ and one of 6 frames in val/."""
    for n, length in enumerate(lengths):
        save_clip(folder / "train" / f"{n}.mp4", moving(length, **size))
    save_clip(folder / "val" / "last.mp4", moving(6, **size))
    return folder


def test_a_flat_folder_is_split_by_name(preset, tmp_path):
    """The same clip stays where it is when others come; of few clips one validates."""
    for n in range(60):
        (tmp_path / f"{n}.mp4").touch()
    before = clips.find_clips(tmp_path, preset)
    assert 2 <= len(before["val"]) <= 12 and not set(before["val"]) & set(before["train"])
    for n in range(60, 80):
        (tmp_path / f"{n}.mp4").touch()
    after = clips.find_clips(tmp_path, preset)
    assert set(before["val"]) <= set(after["val"]) and set(before["train"]) <= set(after["train"])
    assert len(after["train"]) + len(after["val"]) == 80


@pytest.mark.parametrize("names", ["ab", "cd", "wxyz"])
def test_few_clips_leave_one_to_validate(preset, tmp_path, names):
    for name in names:
        (tmp_path / f"{name}.mp4").touch()
    found = clips.find_clips(tmp_path, preset)
    assert len(found["val"]) >= 1 and len(found["train"]) >= 1


def test_one_clip_is_not_enough(preset, tmp_path):
    (tmp_path / "a.mp4").touch()
    with pytest.raises(ClipError, match="has one clip"):
        clips.find_clips(tmp_path, preset)


def test_frames_of_any_size_and_length(preset, tmp_path):
    save_clip(tmp_path / "train" / "a.mp4", moving(20, 40, 50))
    save_clip(tmp_path / "train" / "b.mp4", moving(3))
    save_clip(tmp_path / "val" / "c.mp4", moving(6, 16, 90))
    episodes = load_episodes(tmp_path, "train", preset)
    assert episodes.frames.shape == (23, 16, 24, 3) and episodes.starts.tolist() == [0, 20, 23]
    assert np.array_equal(episodes.frames[20:], read_clip(tmp_path / "train" / "b.mp4", 3).frames)
    assert episodes.frames[:20].std() > 20  # pictures, not blanks


def test_a_clip_is_read_piece_by_piece(preset, tmp_path, monkeypatch):
    """Neither 40 frames of a clip nor two clips are ever held at once."""
    seen = []
    fit = data.fit_frames
    monkeypatch.setattr(
        data, "fit_frames", lambda frames, *size: seen.append(len(frames)) or fit(frames, *size)
    )
    load_episodes(split(tmp_path, (40, 17)), "train", preset)
    assert seen == [16, 16, 8, 16, 1] and data.FRAMES_AT_ONCE == 16


def test_tokens_are_those_of_the_pipeline(preset, tmp_path):
    """In pieces as at once, and again from the cache, without the tokenizer."""
    mine = loaded(preset)
    tokens = load_tokens(split(tmp_path, (20, 5), height=20, width=40), "train", mine)
    whole = encode_frames(mine, read_clip(tmp_path / "train" / "0.mp4", 20).frames).numpy()
    assert tokens.codes.dtype == np.int32 and np.array_equal(tokens.codes[:20], whole)
    assert tokens.starts.tolist() == [0, 20, 25] and [clip.name for clip in tokens.clips] == [
        "0.mp4",
        "1.mp4",
    ]
    names = preset.actions.describe(tokens.actions)
    assert names[:4] == ["left", "right", "idle", "left"] and names[20] == "left"
    again = load_tokens(tmp_path, "train", mine)
    assert np.array_equal(tokens.codes, again.codes)


def test_the_cache_holds_what_is_unchanged(preset, tmp_path, monkeypatch):
    """Only a clip that is new or has changed is encoded, and all of them for another tokenizer."""
    encoded = []
    encode = data._encode
    monkeypatch.setattr(
        data, "_encode", lambda clip, mine: encoded.append(clip.name) or encode(clip, mine)
    )
    folder, mine = split(tmp_path), loaded(preset)
    for change, expected in [
        (lambda: None, ["0.mp4", "1.mp4"]),
        (lambda: None, []),
        (lambda: save_clip(folder / "train" / "2.mp4", moving(4)), ["2.mp4"]),
        (lambda: save_clip(folder / "train" / "0.mp4", moving(7)[1:]), ["0.mp4"]),
    ]:
        change()
        encoded.clear()
        load_tokens(folder, "train", mine)
        assert encoded == expected
    load_tokens(folder, "train", loaded(preset, seed=1))
    assert encoded == ["0.mp4", "0.mp4", "1.mp4", "2.mp4"]
    encoded.clear()
    with torch.no_grad():
        # a decoder that learnt on alone: the codes are what they were
        mine.tokenizer.decoder[0].weight.zero_()
    load_tokens(folder, "train", mine)
    assert not encoded


@pytest.mark.parametrize(
    "damage", [b"", b"garbage", lambda data: data[:-1], lambda data: data[:150]]
)
def test_a_damaged_cache_is_made_again(preset, tmp_path, damage):
    folder, mine = split(tmp_path), loaded(preset)
    episodes, tokens = load_episodes(folder, "train", preset), load_tokens(folder, "train", mine)
    frames = episodes.frames.copy()
    for pattern in ("*.u8", "frames-*.npy", "tokens-*/*.npy"):
        file = min((folder / "cache").glob(pattern))
        file.write_bytes(damage if isinstance(damage, bytes) else damage(file.read_bytes()))
        assert np.array_equal(load_episodes(folder, "train", preset).frames, frames)
        assert np.array_equal(load_tokens(folder, "train", mine).codes, tokens.codes)


def test_a_cache_that_cannot_be_written(preset, tmp_path):
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(OutputError, match=r"cannot be written: .*, with --cache FOLDER"):
        load_episodes(split(tmp_path), "train", preset)


def test_another_folder_for_the_cache(preset, tmp_path):
    folder = split(tmp_path / "data")
    load_tokens(folder, "val", loaded(preset), cache=tmp_path / "elsewhere")
    assert (
        not (folder / "cache").exists() and len(list((tmp_path / "elsewhere").rglob("*.npy"))) == 1
    )


def test_actions_are_optional(preset, tmp_path):
    """Clips without a file rest; a preset without actions reads none."""
    folder = split(tmp_path)
    (folder / "train" / "0.jsonl").unlink()
    actions = load_tokens(folder, "train", loaded(preset)).actions
    assert (actions[:6] == preset.actions.rest).all() and not (
        actions[6:] == preset.actions.rest
    ).any()
    bare = preset.model_copy(update={"actions": None})
    bare.__dict__.pop("grid", None)
    tokens = load_tokens(folder, "train", loaded(bare))
    assert tokens.actions.shape == (11, 0)
    windows = Windows(phases=(Phase(start=0, frames=2, batch=3),))
    assert WindowSampler(tokens, bare).draw(windows, 0, 0).shape == (3, 2 * 6)


def test_balance_draws_windows_of_rare_actions_more_often(preset, tmp_path):
    """One frame in ten turns; of balanced windows of two frames, whose second follows one action,
    every second does.
    """
    tokens = load_tokens(split(tmp_path), "train", loaded(preset))
    walk, turn = (preset.actions.offset + n for n in (1, 3))
    actions = np.full((1000, 1), walk)
    actions[::10] = turn
    many = Tokens(tokens.codes[:1].repeat(1000, 0), np.array([0, 1000]), actions, tokens.clips)
    shares = []
    for balance in (0, 1):
        phase = Phase(start=0, frames=2, batch=2000, balance=balance)
        drawn = WindowSampler(many, preset).draw(Windows(phases=(phase,), dropout=0), 0, 0)
        shares.append(
            float((drawn[:, preset.grid.conditioning_positions(0)] == turn).float().mean())
        )
    assert abs(shares[0] - 0.1) < 0.03 and abs(shares[1] - 0.5) < 0.05


@pytest.mark.parametrize("name", ["mineworld-300m", "wham-200m"])
def test_actions_of_every_kind(name, tmp_path):
    """A clip with its family's file of actions; in a window each frame is followed by its own."""
    preset = load_preset(write_small(name, tmp_path))
    for part in ("train", "val"):
        clip = save_clip(tmp_path / part / "walk.mp4", moving(12, 40, 64))
        steer(clip, name)
    tokens = load_tokens(tmp_path, "train", loaded(preset, seed=0))
    assert np.array_equal(tokens.actions, preset.actions.read(clip.with_suffix(".jsonl")))
    assert not np.array_equal(tokens.actions[0], tokens.actions[1])
    grid, sampler = preset.grid, WindowSampler(tokens, preset)
    sequence = sampler.sequences(np.array([3]), 4)[0].numpy()
    assert np.array_equal(grid.codes(sequence, 4), tokens.codes[3:7])
    assert np.array_equal(sequence[grid.conditioning_positions(2)], tokens.actions[5])
    assert np.array_equal(sequence[: grid.prefix], preset.prefix)


def test_a_wham_recording_is_a_clip(tmp_path):
    preset = load_preset(write_small("wham-200m", tmp_path))
    actions = np.array([[n % 2] * 12 + [5] * 4 for n in range(6)], dtype=np.float32)
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
        np.savez(
            tmp_path / part / "a.npz",
            images=moving(6, 40, 64).transpose(0, 3, 1, 2),
            actions=actions,
        )
    tokens = load_tokens(tmp_path, "train", loaded(preset, seed=0))
    assert len(tokens) == 6 and np.array_equal(
        tokens.actions[0::2], np.tile(tokens.actions[0], (3, 1))
    )


def test_latent_frames_of_several_frames(tmp_path):
    """Cosmos: a clip is cut into windows of 33 frames; the rest is cut to whole latent frames;
    windows start at starts.
    """
    preset = load_preset(write_small("cosmos-4b", tmp_path))
    for part, count in (("train", 33 + 20), ("val", 33 + 8)):
        save_clip(tmp_path / part / "walk.mp4", moving(count, 32, 48)).with_suffix(
            ".jsonl"
        ).unlink()
    mine = loaded(preset, seed=0)
    tokens = load_tokens(tmp_path, "train", mine)
    # 33 frames; 17 of the 20 that are left
    assert tokens.whole and tokens.starts.tolist() == [0, 5, 8]
    frames = read_clip(tmp_path / "train" / "walk.mp4", 17, start=33).frames
    assert np.array_equal(tokens.codes[5:], encode_frames(mine, frames).numpy())
    sampler = WindowSampler(tokens, preset)
    assert sampler.left.tolist() == [5, 0, 0, 0, 0, 3, 0, 0]
    # 8 frames hold no latent frame after the first
    assert load_tokens(tmp_path, "val", mine).starts.tolist() == [0, 5]
    with pytest.raises(
        ClipError, match=r"The longest of .*\(walk.mp4\) has 5 latent frames, and windows have 6"
    ):
        sampler.check_window(6)


def test_clips_too_short_for_two_latent_frames(tmp_path):
    preset = load_preset(write_small("cosmos-4b", tmp_path))
    for part in ("train", "val"):
        save_clip(tmp_path / part / "walk.mp4", moving(8, 32, 48))
    with pytest.raises(ClipError, match=r"None of the clips that train \(walk.mp4\) has 9 frames"):
        load_tokens(tmp_path, "train", loaded(preset, seed=0))


def test_unsteered_frames_rest(tmp_path):
    tiny = make_tiny(tmp_path)
    preset = load_preset(tiny.preset)
    shutil.copytree(split(tmp_path / "data"), tmp_path / "again")
    sampler = WindowSampler(load_tokens(tmp_path / "again", "train", loaded(preset)), preset)
    kept, dropped = (sampler.sequences(np.array([0]), 4, n)[0].numpy() for n in (0, 2))
    places = [preset.grid.conditioning_positions(t)[0] for t in range(4)]
    assert (dropped[places[:2]] == preset.actions.rest).all() and np.array_equal(
        kept[places[2:]], dropped[places[2:]]
    )
    assert not (kept[places] == preset.actions.rest).any()
    assert json.loads((tmp_path / "data/train/0.jsonl").read_text().splitlines()[0]) == {
        "action": "left"
    }
