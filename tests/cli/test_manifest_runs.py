"""diagd generate --manifest and --shard: what single runs make, whatever the machine and the
batch.
"""

import json

import numpy as np
import pytest
from tiny import save_walks


@pytest.fixture
def generate(diagd, tiny, tmp_path):
    """Continues clips by the tiny preset, into tmp_path/out."""

    def run(*arguments, output=tmp_path / "out"):
        return diagd("generate", *arguments, "-p", tiny.preset, "-o", output)

    return run


@pytest.fixture(scope="module")
def walks(tmp_path_factory):
    return save_walks(tmp_path_factory.mktemp("walks"))


def manifest(folder, *rows, name="rows.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def codes(path):
    return np.load(path.with_suffix(".npz"))["codes"].tolist()


def test_rows_in_batches_are_single_runs(generate, walks, tmp_path):
    """Seed, length, actions and output of a row are its own; what it has not is the command's."""
    rows = [
        {"clip": str(walks / "0.mp4"), "seed": 1, "output": "a.mp4"},
        {"clip": str(walks / "1.mp4"), "frames": 5, "output": "deep/b.mp4"},
        {"clip": str(walks / "2.mp4"), "seed": 2, "actions": "right*2,left", "output": "c.mp4"},
        {"clip": str(walks / "2.mp4"), "seed": 3, "frames": 5, "output": "d.mp4"},
    ]
    done = generate(
        "--manifest",
        manifest(tmp_path, *rows),
        "--batch",
        2,
        "--seed",
        9,
        "--save-tokens",
        "--json",
    )
    assert done.code == 0, done.err
    told = {made["output"].rsplit("/", 1)[-1]: made for made in done.objects}
    assert {name: made["batch"] for name, made in told.items()} == dict.fromkeys(
        ["a.mp4", "b.mp4", "c.mp4", "d.mp4"], 2
    )
    assert not list((tmp_path / "out").glob("failures*"))
    for row in rows:
        own = [f"--{name}={row[name]}" for name in ("frames", "actions") if name in row]
        alone = tmp_path / "alone" / row["output"]
        generate(row["clip"], "--seed", row.get("seed", 9), *own, "--save-tokens", output=alone)
        assert codes(alone) == codes(tmp_path / "out" / row["output"])
        sidecar, same = (
            json.loads(path.with_suffix(".json").read_text())
            for path in (alone, tmp_path / "out" / row["output"])
        )
        assert all(sidecar[key] == same[key] for key in ("settings", "steered_by", "output_sha256"))


def test_rows_that_fail_are_told_and_the_others_made(generate, walks, tmp_path):
    """Then --resume makes what was missing, and the file of failures goes."""
    rows = [
        {"clip": str(walks / "0.mp4")},
        {"clip": "missing.mp4"},
        {"clip": str(walks / "1.mp4"), "actions": "jump", "prompt": None},
        {"clip": str(walks / "2.mp4"), "frames": 4},
    ]
    path, options = manifest(tmp_path, *rows), ("--seed", 4, "--batch", 3)
    done = generate("--manifest", path, *options)
    failures = tmp_path / "out" / "failures.jsonl"
    assert done.code == 1 and done.err.endswith(f"error: 2 of 4 clips failed: {failures}\n")
    missing, jump = map(json.loads, failures.read_text().splitlines())
    assert missing == {
        "clip": f"{tmp_path}/missing.mp4",
        "output": f"{tmp_path}/out/missing.mp4",
        "seed": 4,
        "error": f"{tmp_path}/missing.mp4 does not exist. Check the name and the folder",
    }
    assert jump["actions"] == "jump" and jump["error"].startswith("unknown action 'jump'")
    assert sorted(p.name for p in (tmp_path / "out").glob("*.mp4")) == ["0.mp4", "2.mp4"]

    assert "failures.jsonl exists already" in generate("--manifest", path, *options).err
    (tmp_path / "missing.mp4").symlink_to(walks / "1.mp4")
    manifest(tmp_path, *rows[:2], rows[3])
    done = generate("--manifest", path, *options, "--resume")
    assert done.code == 0 and done.err.count("is there already") == 2 and not failures.exists()


def test_a_single_row_that_fails_is_told_there_too(generate, tmp_path):
    done = generate("--manifest", manifest(tmp_path, {"clip": "missing.mp4"}))
    assert (
        done.code == 1 and len((tmp_path / "out" / "failures.jsonl").read_text().splitlines()) == 1
    )


def test_a_row_that_the_preset_cannot_make_fails_alone(generate, walks, tmp_path):
    rows = [{"clip": str(walks / f"{n}.mp4"), "frames": 3 + n} for n in range(2)]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "1.mp4").write_bytes(b"precious")
    done = generate("--manifest", manifest(tmp_path, *rows))
    [failure] = map(json.loads, (tmp_path / "out" / "failures.jsonl").read_text().splitlines())
    assert done.code == 1 and "exists already" in failure["error"] and failure["frames"] == 4


def test_shards_make_the_whole(generate, walks, tmp_path):
    """Three machines that know nothing of each other; one may find nothing to do."""
    clips = [walks / f"{n}.mp4" for n in range(3)]
    rows = manifest(tmp_path, *({"clip": str(clip)} for clip in clips), {"clip": "gone.mp4"})
    options = ("--seed", 5, "--save-tokens")
    whole = generate(*clips, *options, output=tmp_path / "whole")
    assert whole.code == 0
    made, codes_of = [], {}
    for n in (1, 2, 3):
        done = generate("--manifest", rows, *options, "--shard", f"{n}/3", "--resume")
        made += done.out.splitlines()
        codes_of[n] = done.code
    assert sorted(made) == [f"{tmp_path}/out/{n}.mp4" for n in range(3)]
    assert sorted(codes_of.values()) == [0, 0, 1]
    [failures] = (tmp_path / "out").glob("failures*")
    [failing] = [n for n, code in codes_of.items() if code]
    assert failures.name == f"failures-{failing}-of-3.jsonl"
    for n in range(3):
        paths = [tmp_path / folder / f"{n}.mp4" for folder in ("whole", "out")]
        assert codes(paths[0]) == codes(paths[1])
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_shard_without_clips_is_done(generate, walks, tmp_path):
    shown = [generate(walks / "0.mp4", "--shard", f"{n}/9", "--dry-run") for n in range(1, 10)]
    assert [done.code for done in shown] == [0] * 9
    assert sum(len(done.out.splitlines()) for done in shown) == 1
    assert sum("holds none of the 1 clips" in done.err for done in shown) == 8
    empty = next(n for n, done in enumerate(shown, 1) if not done.out)
    done = generate(walks / "0.mp4", "--shard", f"{empty}/9")
    assert (done.code, done.out) == (0, "")


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["x.mp4"], "Both x.mp4 and --manifest ROWS are given. Name one"),
        (["-o", "a.mp4"], "-o a.mp4 is one file for the rows of ROWS. Name a folder"),
        (["--stream", "-o", "-"], "-o - is one stream for the rows of ROWS. Name a folder"),
        (["--shard", "3"], "The shard '3' is not I/N with I in 1..N. The first of eight is 1/8"),
        (["--prompt", "x"], "The preset tiny takes no text, and --prompt gives one"),
    ],
)
def test_what_cannot_be_asked(diagd, tiny, tmp_path, arguments, told):
    rows = manifest(tmp_path, {"clip": str(tiny.clip)})
    done = diagd("generate", "--manifest", rows, "-p", tiny.preset, "-o", tmp_path, *arguments)
    assert done.code == 2 and f"error: {told}".replace("ROWS", str(rows)) in done.err


def test_a_prompt_that_no_preset_takes(generate, tiny, tmp_path):
    rows = manifest(tmp_path, {"clip": str(tiny.clip), "prompt": "a door"})
    done = generate("--manifest", rows)
    assert done.code == 2 and "takes no text, and the manifest gives one" in done.err


def test_the_manifest_is_an_input(generate, tiny, tmp_path):
    rows = manifest(tmp_path, {"clip": str(tiny.clip), "output": "rows.mp4"}, name="rows.jsonl")
    rows = rows.rename(tmp_path / "failures.jsonl")
    done = generate("--manifest", rows, "--force", output=tmp_path)
    assert done.code == 2 and "is an input too: the manifest" in done.err
