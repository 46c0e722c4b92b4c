"""The guard in front of every request: who may ask, from which page, how much, and which headers.

A local server is reached by any page the user has open. Against DNS rebinding the Host must be a
name of this machine; against other sites' requests the Origin must be our own; an address that
other machines can reach asks for a token besides.
"""

from __future__ import annotations

import hmac
import ipaddress
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from monoscope.viewer.config import LOOPBACK_NAMES, ViewerConfig
from monoscope.viewer.problems import problem

COOKIE = "monoscope_token"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """ASGI middleware: refuses what must not be asked, adds the security headers to the rest."""

    def __init__(self, app: ASGIApp, config: ViewerConfig) -> None:
        self.app, self.config = app, config
        own = (config.host, config.page_host, *config.names)
        named = {_name(f"[{name}]" if ":" in name else name) for name in own}
        self.names = LOOPBACK_NAMES | named - {""}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        guarded = _with_headers(send)
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, guarded)
            return
        await _Body(self.app, self.config.max_body)(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._known(_name(host)):
            return problem(
                403,
                "this page is not served under that name",
                got=f"Host {host[:100]!r}",
                expected="localhost, 127.0.0.1, or the address the viewer was started with",
            )
        origin = headers.get("origin")
        if origin is not None and urlsplit_host(origin) != host.lower():
            return problem(
                403,
                "a request from another site",
                got=f"Origin {origin[:100]!r}",
                expected="this page's own origin",
            )
        if headers.get("sec-fetch-site") == "cross-site" and _is_api(scope["path"]):
            return problem(403, "a request from another site", expected="this page's own origin")
        return self._token(scope, headers)

    def _known(self, name: str) -> bool:
        if name in self.names:
            return True
        if self.config.loopback:
            return False
        try:  # an address cannot be rebound, only a name can
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _token(self, scope: Scope, headers: Headers) -> Response | None:
        """None where no token is needed or the right one was shown."""
        token = self.config.token
        if token is None:
            return None
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _same(bearer.strip(), token):
            return None
        if _same(_cookie(headers), token):
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if scope["method"] == "GET" and any(k == "token" and _same(v, token) for k, v in query):
            return _remember(scope["path"], query, token)
        return problem(
            401,
            "this viewer asks for a token",
            expected="the address that was printed when it started, or Authorization: Bearer …",
            headers={"www-authenticate": "Bearer"},
        )


class _Body:
    """Refuses a request whose body is larger than `limit` bytes, declared or not."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isdecimal():
            await problem(400, "bad Content-Length", got=declared[:40])(scope, receive, send)
            return
        if int(declared) > self.limit:
            await self._refuse(scope, receive, send)
            return
        if "transfer-encoding" not in Headers(scope=scope):
            await self.app(scope, receive, send)  # the server itself keeps to the declared length
            return
        body = b""
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message.get("body", b"")
            if len(body) > self.limit:
                await self._refuse(scope, receive, send)
                return
            if not message.get("more_body"):
                break
        await self.app(scope, _replay(body, receive), send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = problem(413, "the request is too large", expected=f"at most {self.limit:,} bytes")
        await answer(scope, receive, send)


def urlsplit_host(origin: str) -> str:
    """Host and port of an Origin, as a Host header would give them; empty for "null"."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _replay(body: bytes, receive: Receive) -> Receive:
    """A receive that gives the body once, then what the connection itself reports."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _with_headers(send: Send) -> Send:
    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return guarded


def _name(host: str) -> str:
    """The host of a Host header, without port and brackets, in lower case."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_api(path: str) -> bool:
    return path.startswith(("/api/", "/v1/"))


def _cookie(headers: Headers) -> str:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return "" if morsel is None else morsel.value


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())


def _remember(path: str, query: list[tuple[str, str]], token: str) -> Response:
    """Keep the token in a cookie and ask again without it, so that it stays out of bookmarks."""
    rest = urlencode([(k, v) for k, v in query if k != "token"])
    safe = "/" + path.lstrip("/\\")  # never another site's address
    answer = RedirectResponse(f"{safe}?{rest}" if rest else safe, status_code=303)
    answer.set_cookie(COOKIE, token, httponly=True, samesite="strict", path="/")
    return answer
