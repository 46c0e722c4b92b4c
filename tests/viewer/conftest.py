"""What the viewer's tests share: the slide, a folder of one's own, the app, and a live server."""

from __future__ import annotations

import contextlib
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

sys.path.insert(0, str(Path(__file__).parent))
import microscope
import tools

from monoscope.viewer.app import create_app
from monoscope.viewer.config import ViewerConfig

START_SECONDS = 60.0
NODE = "apt-get install nodejs npm, then make test"


@pytest.fixture(scope="session")
def slide(request: pytest.FixtureRequest) -> Path:
    """Folder with store, sae, sae-small, atlas, atlas-small and eval.json; look, do not touch."""
    cache = request.config.cache
    assert cache is not None
    return microscope.kept(cache.mkdir("slide"))


@pytest.fixture(scope="module")
def bench(slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the slide that the tests of one module may write to."""
    folder = tmp_path_factory.mktemp("bench") / "slide"
    shutil.copytree(slide, folder)
    return folder


@pytest.fixture(scope="module")
def config(bench: Path) -> ViewerConfig:
    """A viewer of the bench's larger SAE, with its model, on any free port."""
    return ViewerConfig(atlas=bench / "atlas", sae=bench / "sae", runs=bench, port=0)


@pytest.fixture(scope="module")
def live(config: ViewerConfig) -> Iterator[str]:
    """The address of that viewer, served by uvicorn from a thread until the module is done."""
    with serving(config) as address:
        yield address


@contextlib.contextmanager
def serving(config: ViewerConfig) -> Iterator[str]:
    """Serve a viewer on a free port of this machine; yields its address."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        settings = uvicorn.Config(
            create_app(config), log_level="warning", ws="none", timeout_graceful_shutdown=5
        )
        server = uvicorn.Server(settings)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        try:
            _until(lambda: server.started or not thread.is_alive(), "the server did not start")
            assert thread.is_alive(), "the server stopped while starting"
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(START_SECONDS)
            assert not thread.is_alive(), "the server did not stop"


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """What tests/viewer/package-lock.json pins, installed; without it the test is skipped."""
    found = tools.npm_packages()
    return found or tools.missing("node, or what tests/viewer/package.json pins", NODE)


def _until(ready: Callable[[], Any], otherwise: str) -> None:
    end = time.monotonic() + START_SECONDS
    while not ready():
        assert time.monotonic() < end, otherwise
        time.sleep(0.01)
