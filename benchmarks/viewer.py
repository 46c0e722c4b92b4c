"""How long the viewer takes to answer: first bytes of its pages, lists, features, and the lens.

    python benchmarks/viewer.py runs/demo/atlas --sae runs/demo/sae

Serves the atlas on this machine and asks as a browser would, on one connection. A row a question:
milliseconds to the first byte of the first answer (cold) and, over the repeats after it, the median
and the 90th percentile. The lens reads 200 tokens. With --csv FILE the rows are kept.

    python benchmarks/viewer.py runs/demo/atlas --latents 1000000

Asks an atlas of so many latents instead, made of copies of the one named (`tiled_atlas.py`, some
minutes and 3 GB of temporary files for a million): from the start to the first page, then lists,
searches, filters, orders, facets and the map's bytes, and the most memory the process ever held.
"""

from __future__ import annotations

import argparse
import csv
import platform
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import uvicorn

from monoscope.viewer.app import create_app
from monoscope.viewer.config import ViewerConfig

# 200 tokens in SmolLM2's vocabulary, near enough in others; how many it was is printed.
TEXT = (
    "The river rises in the hills above the town and runs for ninety kilometres to the sea. "
    "In 1889 a bridge was built where the old ford had been, and the market moved to its far side. "
) * 5
FIELDS = ("question", "cold_ms", "median_ms", "p90_ms", "repeats", "device")


def main() -> None:
    """Time every question and print the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("atlas", type=Path)
    parser.add_argument("--sae", type=Path, help="without it, the lens is left out")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--latents", type=int, help="ask an atlas of so many copies instead")
    asked = parser.parse_args()
    if asked.latents is not None:
        _large(asked)
        return
    rows = [("import monoscope.viewer.app", *_import_ms(), 3)]
    began = time.perf_counter()
    with _serving(ViewerConfig(atlas=asked.atlas, sae=asked.sae, port=0)) as address:
        rows.append(("start to listening", _ms(began), _ms(began), _ms(began), 1))
        with httpx.Client(base_url=address, timeout=300) as client:
            rows += _ask_all(client, asked.repeats, asked.sae is not None)
    _report(rows, asked.csv)


def _large(asked: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder) / "atlas"
        maker = [sys.executable, str(Path(__file__).with_name("tiled_atlas.py"))]
        copied = [str(asked.atlas), str(large), "--latents", str(asked.latents)]
        subprocess.run([*maker, *copied], check=True)  # its memory is not the viewer's
        _report(_ask_large(large, asked.repeats), asked.csv)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"most memory held: {peak:,.0f} MiB")


def _report(rows: Iterable[tuple], out: Path | None) -> None:
    table = [(*row, platform.processor() or platform.machine()) for row in rows]
    print(f"{'question':44} {'cold':>8} {'median':>8} {'p90':>8}  ms to the first byte")
    for name, cold, median, p90, *_ in table:
        print(f"{name:44} {cold:8.1f} {median:8.1f} {p90:8.1f}")
    if out is not None:
        with out.open("w", newline="") as file:
            csv.writer(file).writerows([FIELDS, *table])


def _ask_all(client: httpx.Client, repeats: int, with_model: bool) -> Iterator[tuple]:
    n = client.get("/api/v1/atlas").json()["n_features"]
    latents = iter(range(0, n, max(1, n // 500)))

    def feature() -> None:
        _first_byte(client, "GET", f"/api/v1/features/{next(latents)}")

    # Before the model is there, as somebody finds the page who has just started it.
    yield _timed("atlas page, while the model loads", 1, lambda: _first_byte(client, "GET", "/"))
    if with_model:
        while client.get("/api/v1/status").json()["model"]["state"] == "loading":
            time.sleep(0.2)
    pages: list[tuple[str, Callable[[], None]]] = [
        ("atlas page", lambda: _first_byte(client, "GET", "/")),
        ("atlas page's list", lambda: _first_byte(client, "GET", "/api/v1/features?limit=50")),
        ("search for a word", lambda: _first_byte(client, "GET", "/api/v1/features?q=paris")),
        ("feature page", lambda: _first_byte(client, "GET", "/f/0")),
        ("feature page's feature", feature),
    ]
    for name, ask in pages:
        yield _timed(name, repeats, ask)
    if with_model:
        tokens = client.post("/api/v1/lens", json={"text": TEXT}).json()["tokens"][:200]
        text = "".join(token["piece"] for token in tokens)
        body = {"text": text}
        yield _timed(
            f"lens on {len(tokens)} tokens", repeats,
            lambda: _first_byte(client, "POST", "/api/v1/lens", body),
        )  # fmt: skip


def _ask_large(atlas: Path, repeats: int) -> Iterator[tuple]:
    """What a person does with an atlas: open it, look, search, narrow down, sort, see the map."""
    began = time.perf_counter()
    with _serving(ViewerConfig(atlas=atlas, port=0)) as address:
        yield "start to listening", _ms(began), _ms(began), _ms(began), 1
        with httpx.Client(base_url=address, timeout=1800) as client:
            _first_byte(client, "GET", "/")
            yield "start to the page", _ms(began), _ms(began), _ms(began), 1
            _whole(client, "/api/v1/features?limit=50")
            yield "start to the first list", _ms(began), _ms(began), _ms(began), 1
            n = client.get("/api/v1/atlas").json()["n_features"]
            latents = iter(range(7, n, max(1, n // (repeats + 1))))
            rows = "&".join(f"ids={i}" for i in range(n // 2, n // 2 + 40))
            for name, path in (
                ("the whole order", "/api/v1/features/order"),
                ("forty rows of it", f"/api/v1/features/rows?{rows}"),
                ("search for a word", "/api/v1/features/order?q=paris"),
                ("search for a token", "/api/v1/features/order?q=token:%22%20Paris%22"),
                ("filter", "/api/v1/features/order?q=density%3C1e-3%20score%3E0.5"),
                ("sort", "/api/v1/features/order?sort=density&order=asc"),
                ("a page by cursor", "/api/v1/features?q=paris&limit=50"),
                ("facets", "/api/v1/features/facets?q=alive"),
                ("a region of the map", "/api/v1/features/order?box=0.2,0.2,0.4,0.4"),
                ("the map's points", "/api/v1/map/points"),
            ):
                size = _whole(client, path)
                yield _timed(f"{name} ({size:,} bytes)", repeats, lambda p=path: _whole(client, p))
            yield _timed("a feature", repeats, lambda: _whole(client, _feature(latents)))


def _feature(latents: Iterator[int]) -> str:
    return f"/api/v1/features/{next(latents)}"


def _whole(client: httpx.Client, path: str) -> int:
    answer = client.get(path)
    answer.raise_for_status()
    return len(answer.content)


def _timed(name: str, repeats: int, ask: Callable[[], None]) -> tuple:
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        ask()
        times.append(_ms(began))
    later = sorted(times[1:])
    return name, times[0], statistics.median(later), later[int(0.9 * (len(later) - 1))], repeats


def _first_byte(client: httpx.Client, method: str, path: str, body: object = None) -> None:
    with client.stream(method, path, json=body) as answer:
        answer.raise_for_status()
        for _ in answer.iter_raw():
            return


def _import_ms() -> tuple[float, float, float]:
    code = (
        "import time; t = time.perf_counter()\n"
        "import monoscope.viewer.app; print(time.perf_counter() - t)"
    )
    times = [
        1000 * float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                                    check=True).stdout)
        for _ in range(3)
    ]  # fmt: skip
    return times[0], statistics.median(times), max(times)


def _ms(began: float) -> float:
    return 1000 * (time.perf_counter() - began)


@contextmanager
def _serving(config: ViewerConfig) -> Iterator[str]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(create_app(config), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.005)
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        server.should_exit = True
        thread.join(30)


if __name__ == "__main__":
    main()
