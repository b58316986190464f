"""A connection: what it may send, what it has not seen yet, and what it is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from diagd_cli.play import protocol
from diagd_cli.play.protocol import Format
from diagd_cli.play.take import Shown

if TYPE_CHECKING:
    from diagd_cli.play.place import Place

UNSEEN = 2  # frames that may be on their way
MESSAGES_A_SECOND = 200.0  # that it may send
PATIENCE = 5.0  # seconds for which a word to somebody who does not read is waited for
POLICY = 1008  # WebSocket's code for a connection that is closed because of what it did
GONE = WebSocketDisconnect, RuntimeError


@dataclass(eq=False)
class Client:
    """Somebody who plays or watches.

    place: where.
    latest: a frame that is not sent yet.
    newest: the last one that there was.
    unseen: the numbers of those that were sent and are not acknowledged.
    credit: messages that it may send at once.
    heard: time.monotonic() of its last one.
    deaf: whether it did not take a word in time.
    """

    socket: WebSocket
    place: Place
    form: Format = "jpeg"
    latest: Shown | None = None
    newest: Shown | None = None
    unseen: list[int] = field(default_factory=list)
    due: asyncio.Event = field(default_factory=asyncio.Event)
    credit: float = MESSAGES_A_SECOND
    heard: float = field(default_factory=time.monotonic)
    deaf: bool = False

    @property
    def plays(self) -> bool:
        """Whether it plays; else it watches."""
        return self.place.player is self

    def look_at(self, place: Place) -> None:
        """Be where somebody plays, and see the newest frame there."""
        self.place = place
        if place.frame is not None:
            self.offer(place.frame)

    def allowed(self) -> bool:
        """Whether one more message, which has come, is within the rate."""
        now = time.monotonic()
        gained = (now - self.heard) * MESSAGES_A_SECOND
        self.heard, self.credit = now, min(MESSAGES_A_SECOND, self.credit + gained) - 1
        return self.credit >= 0

    def offer(self, shown: Shown) -> None:
        """The newest frame, in place of one that is not sent yet."""
        self.latest = self.newest = shown
        self.due.set()

    def saw(self, number: int) -> None:
        """It has shown a frame."""
        if number in self.unseen:
            self.unseen.remove(number)
            self.due.set()

    async def say(self, words: Mapping[str, Any]) -> None:
        """Tell it something, unless it does not read: then never again, as others wait for it."""
        if self.deaf:
            return
        try:
            await asyncio.wait_for(self.socket.send_json(words), PATIENCE)
        except asyncio.TimeoutError:
            self.deaf = True
        except GONE:
            pass

    async def refuse(self, message: str) -> None:
        """Tell it in one line what cannot be done."""
        await self.say({"do": "error", "message": message})

    async def send_frames(self) -> None:
        """Send the newest frame whenever those before it were seen, until it is gone."""
        with suppress(*GONE):
            while True:
                await self.due.wait()
                self.due.clear()
                shown = self.latest
                if shown is None or len(self.unseen) >= UNSEEN:
                    continue
                self.latest = None
                self.unseen.append(shown.number)
                await self.socket.send_bytes(protocol.pack(shown, self.form))
