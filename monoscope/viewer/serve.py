"""Serving the viewer: a free port, the address printed, the browser opened, Ctrl-C to end."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import sys
import webbrowser
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Timer
from typing import NoReturn

import uvicorn

from monoscope.errors import ConfigError
from monoscope.features.schema import read_manifest
from monoscope.viewer.app import create_app
from monoscope.viewer.config import ViewerConfig, beside

_BACKLOG = 128
_TOKEN_BYTES = 24


def settings(
    atlas: str,
    *,
    port: int,
    model: str | None = None,
    sae: str | None = None,
    runs: str | None = None,
    host: str = "127.0.0.1",
    device: str | None = None,
) -> ViewerConfig:
    """The viewer's settings from what a user types; a token is made up where one is needed.

    Raises FormatError for a bad atlas, ConfigError for a setting out of range.
    """
    folder = Path(atlas)
    manifest = read_manifest(folder)
    found = Path(sae) if sae is not None else beside(folder, manifest["sae"]["hash"])
    local = ViewerConfig(atlas=folder, host=host, port=port, token="-" * 16).loopback
    return ViewerConfig(
        atlas=folder,
        sae=found,
        model=model,
        runs=Path(runs) if runs is not None else folder.resolve().parent,
        device=device,
        host=host,
        port=port,
        token=None if local else secrets.token_urlsafe(_TOKEN_BYTES),
    )


def serve(
    config: ViewerConfig, *, browser: bool = True, said: Callable[[str], None] = print
) -> bool:
    """Serve until Ctrl-C; True if the model was still loading then, and its thread lives on.

    said: called once with the page's address. config.port: the port wanted; 0 for any that is free.

    Raises FormatError for a bad atlas, ConfigError where the address cannot be listened on.
    """
    app = create_app(config)
    with contextlib.closing(_listen(config)) as listener:
        address = page_address(replace(config, port=listener.getsockname()[1]))
        said(address)
        sys.stdout.flush()  # whoever reads it through a pipe waits for it
        if browser:
            opener = Timer(0.3, webbrowser.open, (address,))
            opener.daemon = True
            opener.start()
        settings = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, lifespan="on",
            timeout_graceful_shutdown=2,
        )  # fmt: skip
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(settings).run(sockets=[listener])
    engine = app.state.viewer.engine
    return bool(engine is not None and engine.alive)


def leave() -> NoReturn:
    """End the process at once, with 0.

    The interpreter's own way out would tear down libraries that the loading thread is still in,
    which waits for it or aborts.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def page_address(config: ViewerConfig) -> str:
    """What to type into a browser, with the token where one is needed."""
    host = f"[{config.page_host}]" if ":" in config.page_host else config.page_host
    query = f"?token={config.token}" if config.token else ""
    return f"http://{host}:{config.port}/{query}"


def _listen(config: ViewerConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.port))
        listener.listen(_BACKLOG)
    except OSError as exc:
        listener.close()
        raise ConfigError(
            "cannot listen there",
            got=f"{config.host}:{config.port} ({exc.strerror or exc})",
            expected="a free port of this machine",
            hint="--port 0 takes any that is free.",
        ) from exc
    return listener
