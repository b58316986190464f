"""A served world, and a client that talks to it."""

import contextlib
import json
import threading
import time
from dataclasses import dataclass, field

import uvicorn
from websockets.sync.client import connect

from diagd_cli.cli.play import listen
from diagd_cli.play import LARGEST_MESSAGE, protocol
from diagd_cli.play.app import room_app

PATIENCE = 60.0


def served(room, token="", loopback=True):
    """A room at an address of this machine, `host:port`."""
    return serving(room_app(room, token, loopback))


@contextlib.contextmanager
def serving(app, limit=LARGEST_MESSAGE):
    """An application at an address of this machine, `host:port`."""
    with contextlib.closing(listen("127.0.0.1", 0)) as socket:
        config = uvicorn.Config(app, log_level="error", ws_max_size=limit)
        server = uvicorn.Server(config)
        server.install_signal_handlers = lambda: None
        thread = threading.Thread(target=lambda: server.run(sockets=[socket]))
        thread.start()
        try:
            until(lambda: server.started)
            yield f"127.0.0.1:{socket.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def until(true, patience=PATIENCE):
    """Wait until something is true."""
    end = time.monotonic() + patience
    while not (found := true()):
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.005)
    return found


@dataclass(frozen=True)
class Frame:
    """A frame as a client has it."""

    of_clip: bool
    steps: int
    number: int
    stamp: float
    waited: float
    action: int
    names: int
    picture: bytes


@dataclass
class Client:
    """Talks to a room, and notes what it hears; it acknowledges frames by itself, or not."""

    address: str
    acknowledges: bool = True
    query: str = ""
    headers: dict = field(default_factory=dict)
    words: list = field(default_factory=list)
    frames: list = field(default_factory=list)

    def __enter__(self):
        url = f"ws://{self.address}/live{self.query}"
        # without a bound, else what is not read yet keeps it from closing
        limits = {"max_size": None, "max_queue": None}
        self.socket = connect(url, additional_headers=self.headers, **limits).__enter__()
        return self

    def __exit__(self, *_):
        self.socket.close()

    def say(self, **words):
        self.socket.send(json.dumps(words))

    def hear(self, seconds):
        """One message, None where none comes in time."""
        try:
            heard = self.socket.recv(timeout=seconds)
        except TimeoutError:
            return None
        if isinstance(heard, str):
            self.words.append(json.loads(heard))
            return self.words[-1]
        version, of_clip, steps, number, stamp, waited, _, _, action, _, names = (
            protocol.HEADER.unpack_from(heard)
        )
        assert version == 1
        picture = heard[protocol.HEADER.size :]
        frame = Frame(bool(of_clip), steps, number, stamp, waited, action, names, picture)
        self.frames.append(frame)
        if self.acknowledges:
            self.say(do="ack", frame=number)
        return frame

    def wait_for(self, wanted, patience=PATIENCE):
        """The first message from now on that is wanted."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            heard = self.hear(end - time.monotonic())
            if heard is not None and wanted(heard):
                return heard
        raise AssertionError("it was not heard")

    def word(self, do):
        """The next message of that kind."""
        return self.wait_for(lambda heard: isinstance(heard, dict) and heard["do"] == do)

    def frame(self, wanted=lambda frame: True):
        """The next frame that is wanted."""
        return self.wait_for(lambda heard: isinstance(heard, Frame) and wanted(heard))
