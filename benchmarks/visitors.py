"""Those who come to a world that is served by `diagd play`: some play by a script, some do harm."""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle

from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from diagd_cli.play.protocol import HEADER
from diagd_cli.play.take import NO_ACTION

PATIENCE = 300.0  # seconds for what should happen soon; NTP on a busy machine takes its time
AT_ONCE = 150  # messages that a connection may send before it is slowed down
MALFORMED = (
    "{", "[]", "null", '{"do": "dance"}', '{"do": "act"}', '{"do": "act", "action": "fly"}', "\x00",
    '{"do": "act", "action": 1}', '{"do": "ack", "frame": -1}', '{"do": "reset", "seed": "1e9"}',
    '{"do": "decode", "method": "diagd", "k": 0}', '{"do": "reset", "clip": "../walk"}',
)  # fmt: skip


@dataclass(frozen=True)
class Frame:
    """A frame that has come."""

    of_clip: bool
    steps: int
    number: int
    stamp: float
    action: int
    picture: bytes


class Visitor:
    """A connection to a world at `host:port`; it acknowledges every frame."""

    def __init__(self, address: str):
        # without a bound, else what is not read yet keeps it from closing
        limits = {"max_size": None, "max_queue": None, "ping_interval": None}
        self.socket = connect(f"ws://{address}/live", **limits).__enter__()

    def close(self) -> None:
        self.socket.close()

    def say(self, **words) -> None:
        self.socket.send(json.dumps(words))

    def hear(self) -> dict | Frame:
        """The next message. Raises TimeoutError."""
        heard = self.socket.recv(timeout=PATIENCE)
        if isinstance(heard, str):
            return json.loads(heard)
        _, of_clip, steps, number, stamp, _, _, _, action, _, _ = HEADER.unpack_from(heard)
        self.say(do="ack", frame=number)
        return Frame(bool(of_clip), steps, number, stamp, action, heard[HEADER.size :])

    def word(self, do: str) -> dict:
        """The next message of that kind."""
        while True:
            heard = self.hear()
            if isinstance(heard, dict) and heard["do"] == do:
                return heard

    def frame(self) -> Frame:
        """The next frame that the world has made."""
        while True:
            heard = self.hear()
            if isinstance(heard, Frame) and not heard.of_clip:
                return heard


# ---- playing -------------------------------------------------------------------------------------


@dataclass
class Played:
    """What somebody got who played for a while.

    steps: of all frames that came.
    delays: seconds from each key to the first frame that it steered.
    """

    frames: int = 0
    seconds: float = 0.0
    steps: int = 0
    delays: list[float] = field(default_factory=list)

    def delay(self, share: float) -> float | None:
        """Milliseconds within which that share of the keys was seen; None where none was."""
        if not self.delays:
            return None
        return 1000 * sorted(self.delays)[round(share * (len(self.delays) - 1))]


def play(visitor: Visitor, seconds: float, keys: Iterable[str]) -> Played:
    """Press another key whenever the last one was seen, for so long and until one frame at least
    has come.
    """
    played, keys, stamp = Played(), cycle(keys), 0.0
    started = time.perf_counter()
    while not played.frames or time.perf_counter() - started < seconds:
        if not stamp:
            stamp = pressed = time.perf_counter()
            visitor.say(do="act", action=next(keys), t=stamp)
        frame = visitor.frame()
        played.frames += 1
        played.steps += frame.steps
        if frame.stamp == stamp:
            played.delays.append(time.perf_counter() - pressed)
            stamp = 0.0
    played.seconds = time.perf_counter() - started
    return played


def walk(visitor: Visitor, clip: str, count: int, keys: Iterable[str]) -> list[Frame]:
    """Begin anew from a clip and press another key whenever the last one was seen, for so many
    frames; pictures without loss of all of them, one after another, and of the one before.
    """
    visitor.say(do="format", format="png")
    visitor.say(do="reset", seed=1, clip=clip)
    while visitor.word("state")["clip"] != clip:
        pass
    keys, stamp, frames = cycle(keys), 0.0, []
    while len(frames) <= count:
        if not stamp or (frames and frames[-1].stamp == stamp):
            stamp = time.perf_counter()
            visitor.say(do="act", action=next(keys), t=stamp)
        frame = visitor.frame()
        if frames and frame.number != frames[-1].number + 1:
            frames.clear()  # one was left out, since it came too late, or it is of another clip
        if frame.action != NO_ACTION and frame.picture.startswith(b"\x89PNG"):
            frames.append(frame)
    return frames


@contextmanager
def serving(*words: object) -> Iterator[str]:
    """`diagd play` with these words after it, in a process of its own; the address of its page."""
    command = [sys.executable, "-m", "diagd_cli", "play", *map(str, words), "--no-browser", "-q"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield process.stdout.readline().strip()
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


# ---- harm ----------------------------------------------------------------------------------------


def malformed(address: str, count: int) -> int:
    """Send so many messages that cannot be read or done; returns how many were refused in words."""
    refused, choose = 0, random.Random(0)
    for start in range(0, count, AT_ONCE):
        with closing(Visitor(address)) as visitor, suppress(WebSocketException):
            for n in range(start, min(start + AT_ONCE, count)):
                garbage = "".join(map(chr, choose.choices(range(32, 127), k=40)))
                visitor.socket.send(MALFORMED[n % 13] if n % 13 < len(MALFORMED) else garbage)
            for _ in range(start, min(start + AT_ONCE, count)):
                visitor.word("error")
                refused += 1
    return refused


def vanish(address: str, count: int) -> None:
    """Leave without a word so many times: at once, amid frames, amid a message of one's own."""
    for n in range(count):
        visitor = Visitor(address)
        if n % 3 == 1:
            visitor.hear()
        if n % 3 == 2:
            visitor.socket.socket.sendall(b"\x81\xfe\x02\x00half")
        visitor.socket.socket.shutdown(socket.SHUT_RDWR)


def come_and_go(address: str, count: int) -> float:
    """Connect and leave so many times; returns the seconds that it took."""
    started = time.perf_counter()
    for _ in range(count):
        Visitor(address).close()
    return time.perf_counter() - started
