"""Threads follow the cores that nobody else is using, and change no token."""

import math
from itertools import cycle

import numpy as np
import pytest
import torch

from diagd_cli.cli import threads
from diagd_cli.cli.threads import SPINS, Threads, quota, spin_little, wanted


@pytest.fixture
def own(monkeypatch):
    """Threads of a process that began with four, and looks at every step; whoever else is there is
    not seen.
    """
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "LOOK", 0.0)
    monkeypatch.setattr(threads, "quota", lambda: math.inf)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield Threads()
    torch.set_num_threads(before)


def busy(monkeypatch, others):
    """Have the others use so many of eight cores from one look to the next."""
    told = iter(others)
    state = [0.0, 0.0]

    def usage():
        state[0] += 1
        state[1] += next(told)
        return state[0], state[1], 0.0, 8

    monkeypatch.setattr(threads, "usage", usage)


@pytest.mark.parametrize(
    ("others", "cores", "most", "count"),
    [
        (0, 8, 8, 8), (0, 8, 4, 4), (1, 8, 8, 7), (5.4, 8, 8, 3), (8, 8, 8, 1), (0.3, 2, 2, 2), (1.3, 2, 2, 1), (9, 2, 2, 1),
    ],
)  # fmt: skip
def test_a_thread_for_each_core_that_is_free(others, cores, most, count):
    """Over ten seconds, in which this process used three of its own."""
    assert (
        wanted((100.0, 50.0, 7.0, cores), (110.0, 50.0 + 10 * others + 3, 10.0, cores), most)
        == count
    )


def test_nothing_is_known_in_no_time():
    assert wanted((1.0, 5.0, 5.0, 4), (1.0, 5.0, 5.0, 4), 3) == 3


def test_threads_follow_the_others(monkeypatch, own):
    busy(monkeypatch, [0, 0, 6, 8, 5, 0])
    seen = []
    for _ in range(6):
        own.look()
        seen.append(torch.get_num_threads())
    assert seen == [4, 4, 2, 1, 3, 4]


@pytest.mark.parametrize("variable", ["OMP_NUM_THREADS", None])
def test_a_number_that_is_given_stays(monkeypatch, own, variable):
    if variable:
        monkeypatch.setenv(variable, "3")
        own = Threads()
    else:
        own.fix(3)
    busy(monkeypatch, [0, 8, 8])
    before = torch.get_num_threads()
    for _ in range(3):
        own.look()
    assert torch.get_num_threads() == before == (4 if variable else 3)


def test_a_container_has_no_more_cores_than_its_limit(monkeypatch, own):
    monkeypatch.setattr(threads, "quota", lambda: 2.5)
    busy(monkeypatch, [0, 0, 6])
    counts = []
    for _ in range(3):
        own.look()
        counts.append(torch.get_num_threads())
    assert counts == [4, 3, 2]


@pytest.mark.parametrize(
    ("lines", "files", "cores"),
    [
        ("0::/", {}, math.inf),
        ("0::/", {"cpu.max": "150000 100000"}, 1.5),
        (
            "0::/pod/own",
            {
                "cpu.max": "max 100000",
                "pod/cpu.max": "400000 100000",
                "pod/own/cpu.max": "max 100000",
            },
            4,
        ),
        (
            "4:cpu,cpuacct:/own",
            {"cpu/own/cpu.cfs_quota_us": "200000", "cpu/own/cpu.cfs_period_us": "100000"},
            2,
        ),
        (
            "4:cpu,cpuacct:/own",
            {"cpu/own/cpu.cfs_quota_us": "-1", "cpu/own/cpu.cfs_period_us": "100000"},
            math.inf,
        ),
        ("0::/", {"cpu.max": "nonsense"}, math.inf),
    ],
)
def test_limits_of_containers(tmp_path, lines, files, cores):
    for name, text in (
        {"proc/self/cgroup": lines} | {f"groups/{name}": text for name, text in files.items()}
    ).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert quota(tmp_path / "proc", tmp_path / "groups") == cores


def test_without_control_groups_there_is_no_limit(tmp_path):
    assert quota(tmp_path, tmp_path) == math.inf


def test_a_real_reading(own):
    seconds, work, ours, cores = threads.usage()
    assert seconds > 0 and cores >= 1 and 0 < ours <= work


def test_what_the_user_says_about_waiting_stays():
    for variable, value in (
        ("OMP_WAIT_POLICY", "active"),
        ("GOMP_SPINCOUNT", "7"),
        ("KMP_BLOCKTIME", "1"),
    ):
        environment = {variable: value}
        spin_little(environment)
        assert environment == {variable: value}
    environment = {}
    spin_little(environment)
    assert environment == SPINS


def test_tokens_do_not_depend_on_the_others(monkeypatch, own, diagd, clips, tmp_path):
    """One thread, four, one ... from step to step, while the shipped model decodes."""
    made = []
    for name, others in (("quiet", [0]), ("busy", [0, 8])):
        monkeypatch.setattr("diagd_cli.cli.console.THREADS", Threads())
        busy(monkeypatch, cycle(others))
        out = tmp_path / f"{name}.mp4"
        options = ("--context", 1, "--frames", 1, "--seed", 3, "--save-tokens", "-o", out)
        assert diagd("generate", clips / "rooms.mp4", *options).code == 0
        made.append(np.load(out.with_suffix(".npz"))["codes"])
    np.testing.assert_array_equal(*made)
