"""Who is there: some play, others watch. All of it runs on the event loop, but for the frames."""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from diagd_cli.clip.read import Clip
from diagd_cli.errors import DiagdError
from diagd_cli.jobs.settings import seeds_from
from diagd_cli.loading import Loaded
from diagd_cli.play import LARGEST_MESSAGE, nothing, protocol, recording
from diagd_cli.play.client import POLICY, Client
from diagd_cli.play.holding import Holding
from diagd_cli.play.place import Place
from diagd_cli.play.protocol import Ack, Act, Choose, Watch
from diagd_cli.play.saving import Saved
from diagd_cli.play.take import Shown, Start, Take
from diagd_cli.play.world import World
from diagd_cli.schedule.decoding import Decoding
from diagd_cli.tokens.sampling import Sampling

MOST_WATCHERS = 16
TOO_LONG, TRY_AGAIN = 1009, 1013  # of WebSocket's reasons to close


class Room:
    """A world and those who play in it or look at it.

    loaded: its models.
    clips: that a walk can begin with, by name, all of equally many frames; the places begin with
        one after the other.
    decoding: with which it begins.
    decodings: that are suggested, and `decoding`'s window and stand-ins are theirs.
    seed: of the first place's walk; the others' are those after it.
    pace: most frames a second.
    sessions: how many can play at once.
    sampling: how tokens are drawn; None is the preset's.
    words: what a command line must say besides to have the same models; None where none has them.
    stepped: is called on the world's thread after each step.
    """

    EXACT = 2**53 - 1  # beyond it a browser's numbers lose digits

    def __init__(
        self,
        loaded: Loaded,
        clips: Mapping[str, Clip],
        decoding: Decoding,
        decodings: list[Decoding],
        seed: int,
        pace: float,
        sessions: int = 1,
        sampling: Sampling | None = None,
        words: Sequence[object] | None = (),
        stepped: Callable[[], None] = nothing,
    ):
        self.loaded, self.decodings, self.words = loaded, decodings, words
        self.holding = Holding(loaded.preset)
        self.starts = {name: Start(loaded, clip) for name, clip in clips.items()}
        names = list(clips)
        self.places = [
            Place(self, n, names[n % len(names)], own, partial(self._show, n))
            for n, own in enumerate(seeds_from(seed, sessions))
        ]
        walks, starts = [place.walk for place in self.places], list(self.starts.values())
        self.world = World(loaded, walks, decoding, sampling, pace, self._failed, starts, stepped)
        self.clients: list[Client] = []
        self.loop: asyncio.AbstractEventLoop | None = None

    # ---- the world -------------------------------------------------------------------------------

    def open(self) -> None:
        """Begin, unless it has begun; the world waits until somebody plays."""
        if self.loop is None:
            self.loop = asyncio.get_running_loop()
            self.world.start()
            atexit.register(self.world.stop)  # mounted in another application, nobody closes it

    async def close(self) -> None:
        """End."""
        await asyncio.to_thread(self.world.stop)
        atexit.unregister(self.world.stop)

    def _show(self, number: int, shown: Shown) -> None:
        """A new frame, on the world's thread."""
        assert self.loop is not None
        self.loop.call_soon_threadsafe(self._offer, self.places[number], shown)

    def _failed(self, error: Exception) -> None:
        """The world has ended before its time, on its thread: everybody is told why."""
        assert self.loop is not None
        message = {"do": "error", "message": f"the world has ended: {error}"}
        for client in list(self.clients):
            asyncio.run_coroutine_threadsafe(client.say(message), self.loop)

    def _offer(self, place: Place, shown: Shown) -> None:
        place.look(shown)
        for client in self.clients:
            if client.place is place:
                client.offer(shown)

    def saved(self, key: str) -> Saved | None:
        """What was saved under a key that nobody can guess."""
        return next((place.saved[key] for place in self.places if key in place.saved), None)

    def takes(self, record: Path) -> list[tuple[Take, Path]]:
        """What was played at each place since its last reset, and the file for it: of the first
        place the one that is named, of others -2, -3 and so on.
        """
        return [
            (place.walk.take, recording(record, place.number))
            for place in self.places
            if place.played and place.walk.take.codes
        ]

    # ---- clients ---------------------------------------------------------------------------------

    async def serve(self, socket: WebSocket) -> None:
        """One connection, from its first word to its last."""
        self.open()
        if len(self.clients) >= MOST_WATCHERS + len(self.places):
            await socket.close(TRY_AGAIN, "too many watch already")
            return
        client, sending = Client(socket, self.places[0]), None
        self.clients.append(client)
        try:
            self._seat()
            await client.say(self._hello(client))
            sending = asyncio.create_task(client.send_frames())
            await self._tell()
            if client.newest is None:
                client.look_at(client.place)
            await self._listen(client)
        except (WebSocketDisconnect, RuntimeError):  # it is gone, maybe in the middle of a word
            pass
        finally:
            if sending:
                sending.cancel()
            self.clients.remove(client)
            await self._leave(client)

    def _seat(self) -> list[Client]:
        """Those who wait play where there is room, the first of them first; who watches a place
        where nobody plays watches one where somebody does. Returns those who play now.
        """
        seated = []
        for client in self.clients:
            free = [place for place in self.places if place.player is None]
            if not client.plays and free:
                client.look_at(free[0])
                free[0].take(client)
                seated.append(client)
        played = [place for place in self.places if place.player]
        for client in self.clients:
            if played and client.place.player is None:
                client.look_at(played[0])
        return seated

    async def _leave(self, client: Client) -> None:
        """Somebody has left: another one may play."""
        if client.plays:
            client.place.free()
        for other in self._seat():
            await other.say({"do": "role", "role": "player", "place": other.place.number})
        await self._tell()

    async def _listen(self, client: Client) -> None:
        while True:
            text = await client.socket.receive_text()
            if len(text) > LARGEST_MESSAGE:  # which the server in front of it may have let through
                await client.socket.close(TOO_LONG, "the message is too long")
                return
            if not client.allowed():
                await client.socket.close(POLICY, "too many messages")
                return
            if client.plays and client.place.unwatched:
                client.place.wait(False)
            try:
                await self._heed(client, protocol.read(text))
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(map(str, first["loc"])) or "it"
                await client.refuse(f"{where}: {first['msg']}")
            except DiagdError as error:
                await client.refuse(str(error))

    async def _heed(self, client: Client, message: protocol.Anything) -> None:
        """Do what a client asks for. Raises DiagdError for what cannot be done."""
        match message:
            case Ack():
                client.saw(message.frame)
            case Choose():
                client.form = message.format
                await client.say(client.place.state(client))
            case Watch():
                await self._watch(client, message.place)
            case _ if not client.plays:
                await client.refuse("somebody else plays")
            case Act():
                client.place.act(message)
            case _:
                await client.place.change(client, message)
                await self._tell()

    async def _watch(self, client: Client, number: int) -> None:
        """Somebody who does not play watches another place. Raises DiagdError."""
        if client.plays:
            raise DiagdError("who plays sees what he plays", "Leave, and come back to watch")
        if number >= len(self.places) or not self.places[number].player:
            raise DiagdError(f"nobody plays at place {number}", "Watch one that state.players has")
        client.look_at(self.places[number])
        await self._tell()

    # ---- words -----------------------------------------------------------------------------------

    def _hello(self, client: Client) -> dict[str, Any]:
        preset, grid, holding = self.loaded.preset, self.loaded.preset.grid, self.holding
        return {
            "do": "hello",
            "version": protocol.VERSION,
            "role": "player" if client.plays else "watcher",
            "preset": preset.name,
            "width": preset.clip.width,
            "height": preset.clip.height,
            "fps": preset.clip.fps,
            "grid": {"h": grid.h, "w": grid.w},
            "actions": holding.names,
            "rest": holding.resting,
            "several": holding.actions.several,
            "keys": holding.keys,
            "clips": list(self.starts),
            "decodings": [self.facts(each) for each in self.decodings],
            "limits": {"k": [1, grid.w], "d": [1, grid.area]},
            "sessions": len(self.places),
            "place": client.place.number,
        }

    def facts(self, decoding: Decoding) -> dict[str, Any]:
        """A decoding as clients are told of it."""
        label = decoding.label(self.loaded.preset.grid)
        return {"method": decoding.method, "k": decoding.k, "d": decoding.d, "label": label}

    async def _tell(self) -> None:
        """Everybody how things are."""
        for client in list(self.clients):
            await client.say(client.place.state(client))
