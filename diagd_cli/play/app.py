"""The server: one page, one socket, and the files of what was saved. Nothing else is served."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from diagd_cli.play import LOOPBACK
from diagd_cli.play.client import POLICY
from diagd_cli.play.room import Room
from diagd_cli.play.saving import KINDS

RULES = (
    "default-src 'none'; img-src 'self' blob: data:; connect-src 'self'; "
    "script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors {within}"
)
NOWHERE = "'none'"


def room_app(
    room: Room, token: str = "", loopback: bool = True, within: str = NOWHERE
) -> Starlette:
    """The ASGI application of a room, to be served or mounted.

    token: what the address must have as `?token=...`; "" for nobody's.
    loopback: whether only names of this machine are answered to, so that no page elsewhere can
        reach it by a name of its own.
    within: the origins of pages that may show it in a frame.

    The world begins when the application does; mounted in another one, which tells it nothing of
    that, when it is first asked for.
    """

    def admitted(asked: HTTPConnection) -> bool:
        host = urlsplit(f"//{asked.headers.get('host', '')}").hostname
        if loopback and host not in LOOPBACK:
            return False
        given = asked.query_params.get("token", "")
        return not token or secrets.compare_digest(given.encode(), token.encode())

    async def page(request: Request) -> Response:
        if not admitted(request):
            return PlainTextResponse("The address lacks its token, or is another's\n", 403)
        room.open()
        nonce = secrets.token_urlsafe(16)
        text = (files("diagd_cli.play") / "page.html").read_text(encoding="utf-8")
        headers = {
            "Content-Security-Policy": RULES.format(nonce=nonce, within=within),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }
        return HTMLResponse(text.replace("{{nonce}}", nonce), headers=headers)

    async def saved(request: Request) -> Response:
        found, name = room.saved(request.path_params["key"]), request.path_params["name"]
        kind = found.kinds.get(name) if found else None
        if found is None or kind is None:
            return PlainTextResponse("There is no such file\n", 404)
        headers = {"Content-Disposition": "attachment", "Cache-Control": "no-store"}
        return Response(found.files[kind], media_type=KINDS[kind], headers=headers)

    async def live(socket: WebSocket) -> None:
        origin = socket.headers.get("origin")
        # a browser says where its page is from; what is no browser need not
        same = origin is None or urlsplit(origin).netloc == socket.headers.get("host")
        if not (same and admitted(socket)):
            await socket.close(POLICY)
            return
        await socket.accept()
        await room.serve(socket)

    @asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        room.open()
        yield
        await room.close()

    routes = [Route("/", page), Route("/saved/{key}/{name}", saved), WebSocketRoute("/live", live)]
    app = Starlette(routes=routes, lifespan=life)
    app.state.room = room
    return app
