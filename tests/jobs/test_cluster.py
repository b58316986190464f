"""--ray: what a Ray cluster of two nodes makes is what one process makes, also where workers die."""

import hashlib
import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from families.small import write_small_models
from tiny import moving, save_clip

from diagd_cli.errors import DiagdError, UsageError
from diagd_cli.files.url import place
from diagd_cli.jobs.cluster import LEDGER, Cluster, Ledger, devices
from diagd_cli.jobs.on_ray import packed, unpacked
from diagd_cli.jobs.targets import Target

CLIPS = 3


def test_a_death_counts_against_a_clip_that_was_alone():
    ledger = Ledger()
    ledger.begin([0, 1], "a")
    ledger.begin([2], "b")
    assert ledger.before([3]) == {} and ledger.at_work() == {0: "a", 1: "a", 2: "b"}
    ledger.end([2])
    assert ledger.before([0, 1, 2]) == {0: [], 1: []}  # whose worker is asked for again
    for worker in "cd":
        ledger.begin([0], worker)
        before = ledger.before([0, 1])
    assert before == {0: ["c", "d"], 1: []} and ledger.at_work() == {}


def test_targets_travel_as_text(tmp_path):
    odd = tmp_path / os.fsdecode(b"\xff.mp4")
    batch = {
        3: Target(odd, odd, 2**64 - 1, 5, "left*2", "two\ndoors", True),
        4: Target(odd, odd, 0),
        5: Target(place("s3://b/a.mp4"), place("sftp://me:secret@host/a//b.mp4"), 0),
    }
    assert unpacked(packed(batch)) == batch and packed(batch).isascii()


def test_which_devices_workers_take():
    both, none = {"CPU": 8.0, "GPU": 2.0}, {"CPU": 1.0}
    assert devices(both, "auto", Cluster()) == ("cuda", {"num_gpus": 1, "num_cpus": 1}, 2)
    assert devices(both, "cpu", Cluster(threads=3)) == ("cpu", {"num_cpus": 3}, 2)
    assert devices(none, "auto", Cluster()) == ("cpu", {"num_cpus": 1}, 1)
    assert devices(none, "cuda", Cluster(most=4))[2] == 0  # which it may be given
    with pytest.raises(DiagdError, match="The cluster has no CUDA for a worker"):
        devices(none, "cuda", Cluster())
    with pytest.raises(DiagdError, match="no CPU for a worker of 2 threads"):
        devices(none, "auto", Cluster(threads=2))
    with pytest.raises(UsageError, match="--ray chooses among devices, and cuda:1 is one"):
        devices(both, "cuda:1", Cluster())


@pytest.mark.parametrize(
    "options, told",
    [
        (["--ray", "local", "--stream"], "--ray makes whole files, and --stream none"),
        (["--ray", "local", "--workers", "3:2"], "--workers 3:2 is not MIN:MAX. Give 2:8"),
        (["--workers", "2"], "--workers are Ray's, and no --ray is given. Add --ray local"),
    ],
)
def test_what_cannot_be_asked(diagd, tiny, tmp_path, options, told):
    done = diagd("generate", tiny.clip, "-p", tiny.preset, "-o", tmp_path / "out", *options)
    assert done.code == 2 and f"error: {told}" in done.err and not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def cluster():
    """The address of two nodes of one CPU each, in processes of their own."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'diagd[ray]'")
    from ray.cluster_utils import Cluster as Nodes

    handler = signal.getsignal(signal.SIGTERM)
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes.add_node(num_cpus=1)
    nodes.wait_for_nodes()
    signal.signal(signal.SIGTERM, handler)  # which a head takes for itself
    yield nodes.address
    ray.shutdown()
    nodes.shutdown()


@pytest.fixture
def killed(cluster):
    """Kills every worker that is seen to make the video of a number, and tells their names."""
    import ray

    names, ended = [], threading.Event()

    def watch(number):
        while not ended.wait(0.05):
            if not ray.is_initialized():
                continue
            try:
                ledger = ray.get_actor(LEDGER)
                name = ray.get(ledger.at_work.remote()).get(number)
            except Exception:  # the work has not begun, or has ended
                continue
            if name and name not in names:
                names.append(name)
                os.kill(int(name.split()[1]), signal.SIGKILL)

    watcher = threading.Thread(target=lambda: watch(CLIPS))
    watcher.start()
    yield names
    ended.set()
    watcher.join()


def test_two_nodes_make_what_one_process_makes(diagd, tiny, tmp_path, cluster, killed):
    """The last row's workers are killed while they make it: it is put aside by its name,
    and nothing else is lost or made twice.
    """
    clips = [save_clip(tmp_path / f"{n}.mp4", moving(3 + n)) for n in range(CLIPS)]
    rows = [{"clip": str(clip), "seed": n} for n, clip in enumerate(clips)]
    rows.append({"clip": str(tiny.clip), "frames": 20_000, "output": "deadly.mp4"})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("-p", tiny.preset, "--dtype", "float32", "--save-tokens", "--json", "--seed", 1)
    many = ("--manifest", tmp_path / "rows.jsonl", "--batch", 1, "-o", tmp_path / "many")
    done = diagd("generate", *options, *many, "--ray", cluster)
    assert done.code == 1 and len(killed) == 2, done.err
    [failure] = map(json.loads, (tmp_path / "many" / "failures.jsonl").read_text().splitlines())
    assert failure["output"] == f"{tmp_path}/many/deadly.mp4" and failure["frames"] == 20_000
    assert failure["error"].endswith(f"is put aside: its workers died ({', '.join(killed)})")

    made = {told["output"]: told for told in done.objects}
    assert len(made) == len(done.objects) == CLIPS
    assert len({told["machine"]["threads"] for told in made.values()}) == 1
    for n, clip in enumerate(clips):
        alone = diagd("generate", clip, *options[:-1], n, "-o", tmp_path / "one/").objects[0]
        told = made[f"{tmp_path}/many/{n}.mp4"]
        for key in ("settings", "input", "steered_by", "output_sha256", "new_frames", "tokens"):
            assert told[key] == alone[key], key
        for suffix in (".npz", ".mp4"):
            one, other = (tmp_path / name / f"{n}{suffix}" for name in ("one", "many"))
            assert suffix == ".npz" or one.read_bytes() == other.read_bytes()
            if suffix == ".npz":
                with np.load(one) as here, np.load(other) as there:
                    assert (here["codes"] == there["codes"]).all()
    left = sorted(path.name for path in (tmp_path / "many").iterdir())
    names = [f"{n}{suffix}" for n in range(CLIPS) for suffix in (".json", ".mp4", ".npz")]
    assert left == sorted([*names, "failures.jsonl"])


def workers_at_work():
    return [p.pid for p in psutil.process_iter() if "ray::MapWorker" in " ".join(cmdline(p))]


def cmdline(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_all_workers(start, tiny, tmp_path, cluster, number, code):
    """What is there is complete, and nothing works on."""
    options = ("-p", tiny.preset, "-o", f"{tmp_path}/out/", "--samples", 1000, "--ray", cluster)
    running = start("generate", tiny.clip, *options, "--frames", 200, "--decoding", "ntp")
    first = running.stdout.readline().strip()
    assert first.endswith(".mp4") and workers_at_work()
    running.send_signal(number)
    _, err = running.communicate(timeout=120)
    assert running.returncode == code and "interrupted; nothing half-written was left" in err
    assert "Traceback" not in err and "ray.kill" not in err
    for _ in range(300):
        if not workers_at_work():
            break
        time.sleep(0.1)
    assert not workers_at_work()
    videos = sorted((tmp_path / "out").glob("*.mp4"))
    assert Path(first) in videos and len(videos) < 1000
    for video in videos:
        told = json.loads(video.with_suffix(".json").read_text())
        assert told["output_sha256"] == hashlib.sha256(video.read_bytes()).hexdigest()


def test_labels_are_spread(diagd, tmp_path, cluster):
    write_small_models("llamagen-c2i-b-256", tmp_path)
    asked = ("generate", "-p", tmp_path / "small.yaml", "--label", "1,2", "--seed", 3)
    one, many = (tmp_path / name for name in ("one", "many"))
    alone = diagd(*asked, "-o", f"{one}/")
    told = diagd(*asked, "-o", f"{many}/", "--ray", cluster)
    assert told.code == alone.code == 0, told.err
    assert sorted(told.out.split()) == sorted(alone.out.replace("/one/", "/many/").split())
    pictures = sorted(one.glob("*.png"))
    assert len({picture.read_bytes() for picture in pictures}) == 2
    for picture in pictures:
        assert (many / picture.name).read_bytes() == picture.read_bytes()


TIMED = ("tokens_per_second", "frames_per_second", "decode_seconds", "speedup", "front")


def steady(rows):
    """What does not depend on the clock."""
    return [{name: value for name, value in row.items() if name not in TIMED} for row in rows]


def records(folder):
    """The lines of results by what tells them from others, without times."""
    told = map(json.loads, (folder / "results.jsonl").read_text().splitlines())
    return {line["id"]: steady([line["figures"]]) for line in told}


@pytest.mark.parametrize("command", ["eval", "sweep"])
def test_workers_measure_what_one_process_measures(diagd, tiny, tmp_path, cluster, command):
    """Also the same records, so that either goes on where the other was."""
    clips = [save_clip(tmp_path / f"{n}.mp4", moving(8 + n)[n:]) for n in range(CLIPS)]
    own = ["--decodings", "ntp,diagd:1:2"] if command == "eval" else ["--k", "1", "--d", "2"]
    own += ["--no-chart"] if command == "sweep" else []
    asked = [
        command,
        *clips,
        "-p",
        tiny.preset,
        "--threads",
        1,
        *own,
        "--json",
        "--dtype",
        "float32",
    ]
    one, many = tmp_path / "one", tmp_path / "many"
    alone = diagd(*asked, "--batch", 2, "--out", one)
    told = diagd(*asked, "--batch", 2, "--out", many, "--ray", cluster)
    assert told.code == alone.code == 0, told.err
    [a], [b] = alone.objects, told.objects
    assert steady(a["rows"]) == steady(b["rows"]) and a["machine"] == b["machine"]
    assert records(one) == records(many) and len(records(many)) >= 3 * CLIPS
    lines = (many / "results.jsonl").read_text()
    again = diagd(*asked, "--batch", 2, "--out", many)
    assert again.objects[0]["rows"] == b["rows"]
    assert (many / "results.jsonl").read_text() == lines  # nothing was made again


def test_a_clip_that_cannot_be_measured_ends_it_in_a_line(diagd, tiny, tmp_path, cluster):
    clips = [tiny.clip, save_clip(tmp_path / "short.mp4", moving(3))]
    options = ("-p", tiny.preset, "--ray", cluster, "--workers", 1, "--out", tmp_path / "out")
    done = diagd("eval", *clips, *options)
    assert done.code == 1 and "short.mp4 goes on for 1 frames after the context" in done.err
    assert not (tmp_path / "out" / "report.json").exists()


def test_frames_stay_with_the_workers(diagd, tiny, tmp_path):
    asked = ("eval", tiny.clip, "-p", tiny.preset, "--ray", "local")
    done = diagd(*asked, "--export-vbench", tmp_path / "videos")
    assert done.code == 2 and "--export-vbench needs the frames" in done.err
