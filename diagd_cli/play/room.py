"""Who is there: one plays, others watch. All of it runs on the event loop, but for the frames."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping
from typing import Any, cast

from pydantic import ValidationError
from starlette.websockets import WebSocket, WebSocketDisconnect

from diagd_cli.clip.read import Clip
from diagd_cli.errors import DiagdError
from diagd_cli.families.freedoom.actions import NamedActions
from diagd_cli.loading import Loaded
from diagd_cli.play import protocol
from diagd_cli.play.client import POLICY, Client
from diagd_cli.play.protocol import Ack, Act, Choose, Decode, Pause, Reset, Save
from diagd_cli.play.saving import Saved, save
from diagd_cli.play.world import Shown, World
from diagd_cli.schedule.decoding import Decoding

MOST_WATCHERS = 16
SILENCE = 30.0  # seconds without a word of the player after which the world waits
MOST_SAVED = 4  # takes that are kept for download
TRY_AGAIN = 1013  # of WebSocket's reasons to close


class Room:
    """A world and those who look at it.

    loaded: its models.
    clips: that it can begin with, by name; the first one is taken.
    decoding: with which it begins.
    decodings: that are suggested, and `decoding`'s window and stand-ins are theirs.
    seed: of the first world.
    pace: most frames a second.
    """

    def __init__(
        self,
        loaded: Loaded,
        clips: Mapping[str, Clip],
        decoding: Decoding,
        decodings: list[Decoding],
        seed: int,
        pace: float,
    ):
        preset = loaded.preset
        actions = cast(NamedActions, preset.actions)  # the command has checked
        self.loaded, self.clips, self.decodings = loaded, clips, decodings
        self.rows = {name: actions.encode([name])[0] for name in actions.names}
        self.numbers = {row.tobytes(): n for n, row in enumerate(self.rows.values())}
        self.clip = next(iter(clips))
        self.world = World(loaded, clips[self.clip], decoding, seed, self._show, pace, self._failed)
        self.clients: list[Client] = []
        self.player: Client | None = None
        self.saved: dict[str, Saved] = {}
        self.unwatched = False  # whether the world waits because nobody plays
        self.paused = False  # by the player
        self.loop: asyncio.AbstractEventLoop | None = None
        self.frame: Shown | None = None

    # ---- the world -------------------------------------------------------------------------------

    async def open(self) -> None:
        """Begin; the world waits until somebody plays."""
        self.loop = asyncio.get_running_loop()
        self._wait(True)
        self.world.start()

    async def close(self) -> None:
        """End."""
        await asyncio.to_thread(self.world.stop)

    def _show(self, shown: Shown) -> None:
        """A new frame, on the world's thread."""
        assert self.loop is not None
        self.loop.call_soon_threadsafe(self._offer, shown)

    def _failed(self, error: Exception) -> None:
        """The world has ended before its time, on its thread: everybody is told why."""
        assert self.loop is not None
        message = {"do": "error", "message": f"the world has ended: {error}"}
        for client in list(self.clients):
            asyncio.run_coroutine_threadsafe(client.say(message), self.loop)

    def _offer(self, shown: Shown) -> None:
        self.frame = shown
        for client in self.clients:
            client.offer(shown)
        if self.player and time.monotonic() - self.player.heard > SILENCE:
            self._wait(True)

    def _wait(self, on: bool) -> None:
        """Let the world wait for somebody who plays, or go on, unless the player paused it."""
        self.unwatched = on
        self.world.pause(on or self.paused)

    # ---- clients ---------------------------------------------------------------------------------

    async def serve(self, socket: WebSocket) -> None:
        """One connection, from its first word to its last."""
        if len(self.clients) > MOST_WATCHERS:
            await socket.close(TRY_AGAIN, "too many watch already")
            return
        client = Client(socket)
        self.clients.append(client)
        sending = asyncio.create_task(client.send_frames(self.numbers))
        try:
            if self.player is None:
                self._play(client)
            await client.say(self._hello(client))
            await self._tell()
            if self.frame is not None and client.newest is None:
                client.offer(self.frame)
            await self._listen(client)
        except (WebSocketDisconnect, RuntimeError):  # it is gone, maybe in the middle of a word
            pass
        finally:
            sending.cancel()
            self.clients.remove(client)
            if self.player is client:
                await self._hand_over()

    def _play(self, client: Client) -> None:
        self.player = client
        self._wait(False)

    async def _hand_over(self) -> None:
        """The player has left: the first who watches plays on."""
        self.player, self.paused = None, False
        self._wait(True)
        self.world.held = self.world.rest
        if self.clients:
            self._play(self.clients[0])
            await self.clients[0].say({"do": "role", "role": "player"})
        await self._tell()

    async def _listen(self, client: Client) -> None:
        while True:
            text = await client.socket.receive_text()
            if not client.allowed():
                await client.socket.close(POLICY, "too many messages")
                return
            if client is self.player and self.unwatched:
                self._wait(False)
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
                await client.say(self._state(client))
            case _ if client is not self.player:
                await client.refuse("somebody else plays")
            case Act():
                self._act(message)
            case _:
                await self._change(client, message)

    def _act(self, message: Act) -> None:
        row = self.rows.get(message.action)
        if row is None:
            known = ", ".join(self.rows)
            raise DiagdError(f"no action {message.action[:20]!r}", f"Use {known}")
        self.world.hold(row, message.t)

    async def _change(self, client: Client, message: protocol.Anything) -> None:
        match message:
            case Pause():
                self.paused = message.on
                self.world.pause(message.on)
            case Decode():
                self.world.decode(self._decoding(message))
            case Reset():
                self._reset(message)
            case Save():
                await self._save(client)
        await self._tell()

    def _decoding(self, message: Decode) -> Decoding:
        now = self.world.decoding
        wanted = Decoding(
            message.method,
            message.k,
            message.d,
            now.stand_in,
            now.repair,
            window=now.window,
            sinks=now.sinks,
        )
        wanted.resolve(self.loaded.preset.grid, self.loaded.preset.context)
        return wanted

    def _reset(self, message: Reset) -> None:
        name = message.clip or self.clip
        if name not in self.clips:
            raise DiagdError(f"no clip {name[:20]!r}", f"Use {', '.join(self.clips)}")
        self.clip = name
        seed = secrets.randbelow(2**32) if message.seed is None else message.seed
        self.world.reset(self.clips[name], seed)

    async def _save(self, client: Client) -> None:
        saved = await asyncio.to_thread(save, self.loaded, self.world.take)
        self.saved[saved.key] = saved
        while len(self.saved) > MOST_SAVED:
            del self.saved[next(iter(self.saved))]
        await client.say({"do": "saved", "name": saved.name, "files": saved.addresses})

    # ---- words -----------------------------------------------------------------------------------

    def _hello(self, client: Client) -> dict[str, Any]:
        preset, grid = self.loaded.preset, self.loaded.preset.grid
        assert preset.actions is not None
        rest = preset.actions.describe(preset.actions.rest[None])[0]
        return {
            "do": "hello",
            "version": protocol.VERSION,
            "role": "player" if client is self.player else "watcher",
            "preset": preset.name,
            "width": preset.clip.width,
            "height": preset.clip.height,
            "fps": preset.clip.fps,
            "grid": {"h": grid.h, "w": grid.w},
            "actions": list(self.rows),
            "rest": rest,
            "clips": list(self.clips),
            "decodings": [self._facts(each) for each in self.decodings],
            "limits": {"k": [1, grid.w], "d": [1, grid.area]},
        }

    def _state(self, client: Client) -> dict[str, Any]:
        world = self.world
        return {
            "do": "state",
            "decoding": self._facts(world.decoding),
            "seed": world.take.seed,
            "clip": self.clip,
            "paused": self.paused,
            "frames": len(world.take.codes) + world.take.forgotten,
            "watchers": len(self.clients) - (self.player is not None),
            "format": client.form,
        }

    def _facts(self, decoding: Decoding) -> dict[str, Any]:
        label = decoding.label(self.loaded.preset.grid)
        return {"method": decoding.method, "k": decoding.k, "d": decoding.d, "label": label}

    async def _tell(self) -> None:
        """Everybody how things are."""
        for client in list(self.clients):
            await client.say(self._state(client))
