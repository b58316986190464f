"""What voters get: shuffled pairs, names and bytes that do not tell the sides; and the key beside
it.
"""

import json
import os
import random
import subprocess
from collections import Counter

import imageio_ffmpeg
import pytest
from jobs.vote.ballots import GREY, make_folders
from limits import small_disk

from diagd_cli.clip.read import read_clip
from diagd_cli.errors import ClipError, OutputError, UsageError
from diagd_cli.jobs.vote.pack import draw_pairs, key_path, pack_ballot, page, paired_names
from diagd_cli.jobs.vote.records import Key, VoteError, read_record

QUESTION = "Which?"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make_folders(tmp_path_factory.mktemp("clips"))


def files_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_key_tells_which_video_is_where(folders, tmp_path):
    key = pack_ballot(*folders, tmp_path / "ballot", 3, QUESTION)
    assert read_record(tmp_path / "ballot.key.json", Key) == key and key.seed == 3
    assert sorted(entry.name for entry in key.pairs.values()) == ["a.mp4", "b.mp4", "c.mp4"]
    assert (key.a, key.b) == tuple(map(str, folders))
    for pair, entry in key.pairs.items():
        for side, folder in zip(
            ("left", "right"),
            ("ntp", "diagd") if entry.left == "a" else ("diagd", "ntp"),
            strict=True,
        ):
            frames = read_clip(
                tmp_path / "ballot" / "videos" / f"{pair}-{side}.mp4", context=12
            ).frames
            assert abs(float(frames.mean()) - GREY[folder]) < 3


def test_nothing_in_the_folder_tells_names_folders_or_the_seed(folders, tmp_path):
    pack_ballot(*folders, tmp_path / "ballot", 987654321, QUESTION)
    files = files_of(tmp_path / "ballot")
    assert sorted(files) == [
        "index.html",
        *(f"videos/{n}-{side}.mp4" for n in (1, 2, 3) for side in ("left", "right")),
    ]
    for secret in (
        b"ntp",
        b"a.mp4",
        b"b.mp4",
        b"987654321",
        str(tmp_path).encode(),
        str(folders[0].parent).encode(),
    ):
        assert not any(secret in data for data in files.values())


def test_tags_of_a_video_are_not_copied(folders, tmp_path):
    tagged = tmp_path / "ntp" / "a.mp4"
    tagged.parent.mkdir()
    tags = [
        "-metadata",
        "title=SECRET",
        "-metadata:s:v",
        "handler_name=SECRET",
        "-metadata:s:v",
        "language=fra",
    ]
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-v",
        "error",
        "-i",
        str(folders[0] / "a.mp4"),
        *tags,
        "-c",
        "copy",
    ]
    subprocess.run([*command, str(tagged)], check=True)
    assert tagged.read_bytes().count(b"SECRET") == 2
    (tmp_path / "diagd").mkdir()
    (tmp_path / "diagd" / "a.mp4").write_bytes((folders[1] / "a.mp4").read_bytes())
    key = pack_ballot(tmp_path / "ntp", tmp_path / "diagd", tmp_path / "ballot", 0, QUESTION)
    left, right = (
        (tmp_path / "ballot" / "videos" / f"1-{side}.mp4").read_bytes()
        for side in ("left", "right")
    )
    ours = left if key.pairs["1"].left == "a" else right
    assert b"SECRET" not in ours
    untagged = pack_ballot(*folders, tmp_path / "again", 0, QUESTION)
    pair = next(pair for pair, entry in untagged.pairs.items() if entry.name == "a.mp4")
    side = "left" if untagged.pairs[pair].left == "a" else "right"
    assert ours == (tmp_path / "again" / "videos" / f"{pair}-{side}.mp4").read_bytes()


def test_the_seed_decides_everything(folders, tmp_path):
    keys = [
        pack_ballot(*folders, tmp_path / name, seed, QUESTION)
        for name, seed in (("one", 1), ("two", 1), ("three", 2))
    ]
    assert keys[0] == keys[1] and files_of(tmp_path / "one") == files_of(tmp_path / "two")
    assert keys[0].pairs != keys[2].pairs and keys[0].vote != keys[2].vote


@pytest.mark.parametrize("count", [1, 2, 7, 10])
def test_sides_are_balanced_and_all_orders_occur(count):
    names = [f"{n}.mp4" for n in range(count)]
    draws = [draw_pairs(names, seed) for seed in range(300)]
    for drawn in draws:
        lefts = Counter(left for _, left in drawn.values())
        assert abs(lefts["a"] - lefts["b"]) == count % 2
        assert sorted(name for name, _ in drawn.values()) == sorted(names)
        assert list(drawn) == sorted(drawn) and len(set(map(len, drawn))) == 1
    assert {drawn[next(iter(drawn))] for drawn in draws} == {
        (name, left) for name in names for left in "ab"
    }


def test_the_global_random_state_is_left_alone():
    random.seed(5)
    expected = random.random()
    random.seed(5)
    draw_pairs(["a.mp4", "b.mp4"], 1)
    assert random.random() == expected


def test_names_in_one_folder_only_are_listed(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    for folder, names in (
        (a, ("x.mp4", "same.MP4")),
        (b, ("y.mp4", "same.MP4", "z.mp4", ".hidden.mp4", "note.json")),
    ):
        folder.mkdir()
        for name in names:
            (folder / name).touch()
    with pytest.raises(VoteError) as error:
        paired_names(a, b)
    assert error.value.message == f"only {a} has x.mp4; only {b} has y.mp4, z.mp4"
    for n in range(15):
        (a / f"{n:02}.mp4").touch()
    with pytest.raises(VoteError, match=r"08.mp4, 09.mp4 and 6 more; only"):
        paired_names(a, b)


def test_folders_that_make_no_pairs(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "void").mkdir()
    for a, b, kind, message in [
        (folders[0], folders[0], UsageError, "are the same folder"),
        (tmp_path / "none", folders[0], UsageError, "none cannot be read: no such file"),
        (folders[0] / "a.mp4", folders[0], UsageError, "a.mp4 cannot be read: not a directory"),
        (tmp_path / "empty", tmp_path / "void", VoteError, "hold no MP4s"),
    ]:
        with pytest.raises(kind, match=message):
            pack_ballot(a, b, tmp_path / "ballot", 0, QUESTION)
    for question in ("", " \n", "x" * 301):
        with pytest.raises(UsageError, match="The question has"):
            pack_ballot(*folders, tmp_path / "ballot", 0, question)
    assert sorted(os.listdir(tmp_path)) == ["empty", "void"]


def test_a_broken_video_leaves_nothing(tmp_path):
    a, b = make_folders(tmp_path, ["a.mp4", "b.mp4"])
    (b / "b.mp4").write_bytes(b"#EXTM3U\nfile:///etc/passwd\n")
    with pytest.raises(ClipError, match=r"diagd/b.mp4 cannot be copied as an MP4: "):
        pack_ballot(a, b, tmp_path / "ballot", 0, QUESTION)
    assert sorted(os.listdir(tmp_path)) == ["diagd", "ntp"]


def test_a_full_disk_is_not_blamed_on_the_video(folders, tmp_path):
    with small_disk(tmp_path):
        (tmp_path / "filler").write_bytes(b"x" * (52 << 10))
        with pytest.raises(
            OutputError,
            match=r"ballot cannot be written: no space left on device. Free some space",
        ):
            pack_ballot(*folders, tmp_path / "ballot", 0, QUESTION)
        assert os.listdir(tmp_path) == ["filler"]


def test_a_question_of_other_bytes_can_be_read(folders, tmp_path):
    assert pack_ballot(*folders, tmp_path / "ballot", 0, "Which\udcff?").question == "Which\ufffd?"


def test_what_exists_is_not_replaced(folders, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "other.key.json").write_text("precious")
    for name, taken in (("folder", "folder"), ("other", "other.key.json")):
        with pytest.raises(OutputError, match=f"{taken} exists already"):
            pack_ballot(*folders, tmp_path / name, 0, QUESTION)
    assert (tmp_path / "other.key.json").read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == ["folder", "other.key.json"]
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written: Not a directory"):
        pack_ballot(*folders, tmp_path / "file" / "ballot", 0, QUESTION)


def test_the_folder_can_be_served_and_needs_nothing_else(folders, tmp_path):
    pack_ballot(*folders, tmp_path / "new" / "ballot", 0, QUESTION)
    assert (tmp_path / "new" / "ballot").stat().st_mode & 0o755 == 0o755
    assert key_path(tmp_path / "new" / "ballot").exists()
    html = (tmp_path / "new" / "ballot" / "index.html").read_text()
    assert "http" not in html and "@import" not in html


def test_a_question_cannot_end_its_element():
    question = "</script><script>alert(1)</script> & <!-- \N{LINE SEPARATOR} \" ' @PACK@"
    html = page("0123", question, ["1"])
    assert "alert(1)</" not in html and "<!--" not in html
    data = html.split('<script type="application/json" id="pack">')[1].split("</script>")[0]
    assert json.loads(data) == {"vote": "0123", "question": question, "pairs": ["1"]}
