"""A place to play at: its walk, who plays there, and what the player asks for."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from diagd_cli.errors import DiagdError
from diagd_cli.play.client import Client
from diagd_cli.play.protocol import Act, Anything, Decode, Pause, Reset, Save
from diagd_cli.play.saving import Saved, save
from diagd_cli.play.take import Shown
from diagd_cli.play.walk import Walk
from diagd_cli.schedule.decoding import Decoding

if TYPE_CHECKING:
    from diagd_cli.play.room import Room

SILENCE = 30.0  # seconds without a word of the player after which the walk waits
MOST_SAVED = 4  # takes that are kept for download, of each place


class Place:
    """One of a room's places.

    number: from 0.
    clip, seed: with which its walk begins.
    show: is called with every frame, on a thread of the world's.

    player: who plays there, if anybody does; frame: the newest one; paused: by the player;
    unwatched: whether the walk waits because nobody plays; played: whether anybody ever did.
    """

    def __init__(
        self, room: Room, number: int, clip: str, seed: int, show: Callable[[Shown], None]
    ):
        self.room, self.number, self.clip = room, number, clip
        self.walk = Walk(room.starts[clip], seed, room.holding.rest, show)
        self.player: Client | None = None
        self.frame: Shown | None = None
        self.paused, self.unwatched, self.played = False, True, False
        self.saved: dict[str, Saved] = {}

    def take(self, client: Client) -> None:
        """Somebody plays here from now on."""
        self.player, self.played = client, True
        self.wait(False)

    def free(self) -> None:
        """The player has left; the walk stays for whoever comes next."""
        self.player, self.paused = None, False
        self.walk.held = self.walk.rest
        self.wait(True)

    def wait(self, on: bool) -> None:
        """Let the walk wait for somebody who plays, or go on, unless the player paused it."""
        self.unwatched = on
        self.room.world.wait(self.walk, on or self.paused)

    def look(self, shown: Shown) -> None:
        """A new frame; a player who has not been heard of for long does not play."""
        self.frame = shown
        if self.player and time.monotonic() - self.player.heard > SILENCE:
            self.wait(True)

    def act(self, message: Act) -> None:
        """Hold something. Raises DiagdError."""
        self.room.world.hold(self.walk, self.room.holding.hold(message.names, message.t))

    async def change(self, client: Client, message: Anything) -> None:
        """Do what the player asks for. Raises DiagdError for what cannot be done."""
        world = self.room.world
        match message:
            case Pause():
                self.paused = message.on
                world.wait(self.walk, message.on)
            case Decode():
                world.decode(self._decoding(message))
            case Reset():
                self._reset(message)
            case Save():
                await self._save(client)

    def _decoding(self, message: Decode) -> Decoding:
        now, preset = self.room.world.decoding, self.room.loaded.preset
        wanted = Decoding(
            message.method,
            message.k,
            message.d,
            now.stand_in,
            now.repair,
            window=now.window,
            sinks=now.sinks,
            attend=now.attend,
        )
        wanted.resolve(preset.grid, preset.context)
        return wanted

    def _reset(self, message: Reset) -> None:
        name, starts = message.clip or self.clip, self.room.starts
        if name not in starts:
            raise DiagdError(f"no clip {name[:20]!r}", f"Use {', '.join(starts)}")
        self.clip = name
        seed = secrets.randbelow(2**32) if message.seed is None else message.seed
        self.room.world.reset(self.walk, starts[name], seed)

    async def _save(self, client: Client) -> None:
        saved = await asyncio.to_thread(save, self.room.loaded, self.walk.take, self.room.words)
        self.saved[saved.key] = saved
        while len(self.saved) > MOST_SAVED:
            del self.saved[next(iter(self.saved))]
        await client.say({"do": "saved", "name": saved.name, "files": saved.addresses})

    def state(self, client: Client) -> dict[str, Any]:
        """How things are here, for somebody who plays or watches."""
        room, take = self.room, self.walk.take
        return {
            "do": "state",
            "decoding": room.facts(room.world.decoding),
            "seed": take.seed if take.seed <= room.EXACT else str(take.seed),
            "clip": self.clip,
            "paused": self.paused,
            "frames": take.made,
            "watchers": sum(
                other.place is self and other is not self.player for other in room.clients
            ),
            "format": client.form,
            "place": self.number,
            "players": [place.number for place in room.places if place.player],
        }
