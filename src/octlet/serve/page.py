"""The page: a few files that a browser asks for, and what it may do with them.

They are the same for everyone and hold nothing secret, so they need no token: a browser cannot send one with
the address that a person types. What they ask of the API needs it as ever.
"""

import hashlib
from importlib.resources import files
from types import MappingProxyType

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

KINDS = MappingProxyType(
    {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
)

# No inline script or style, nothing from elsewhere, and no frame around it: a scan's name that holds HTML,
# or a fault of ours, finds nothing to run. blob: and data: are scans and maps that the page itself drew.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Cache-Control": "no-cache",  # kept, but asked for again: an upgraded server never meets an old page
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
}


def page_routes() -> list[Route]:
    """Return a route for each file of the page, read once: `/` for index.html, `/NAME` for the others."""
    folder = files("octlet.serve") / "static"
    named = {each.name: each for each in folder.iterdir() if each.name.rpartition(".")[2] in KINDS}
    return [_route(name, each.read_bytes()) for name, each in sorted(named.items())]


def _route(name: str, body: bytes) -> Route:
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    kind = KINDS[name.rpartition(".")[2]]
    headers = _HEADERS | {"ETag": tag}

    async def answer(request: Request) -> Response:
        known = request.headers.get("if-none-match", "")
        if tag in (each.strip().removeprefix("W/") for each in known.split(",")):
            return Response(status_code=304, headers=headers)
        return Response(body, headers=headers, media_type=kind)

    return Route("/" if name == "index.html" else f"/{name}", answer)
