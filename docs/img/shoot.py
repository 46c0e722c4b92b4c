"""Takes the pictures of the viewer that the README shows, from the real server on a real atlas.

    python docs/img/shoot.py runs/demo/atlas [--feature 2338] [--edit 927=add:0.4norm] [--only run]

Compare is taken where a second atlas of the same model lies beside the first, and its map is made
where the atlas has none. Needs what `make test` sets up: Playwright, and Debian's Chromium.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from playwright.sync_api import Browser, expect, sync_playwright

HERE = Path(__file__).parent
WIDE, PHONE = (1440, 820), (390, 844)
PATIENCE_MS = 180_000
TEXT = (
    "The Eiffel Tower in Paris was finished in 1889. Its engineers, who had mostly studied "
    "physics, built it in two years."
)
PROMPT = "The story begins with"


@dataclass(frozen=True)
class Shot:
    """A page to be taken: its name, address, what is there once it is drawn, and what it says."""

    name: str
    address: str
    there: str
    says: str = ""
    phone: bool = False


def main() -> None:
    asked = _arguments()
    with _viewer(asked.atlas, asked.runs) as address, sync_playwright() as driver:
        shots = [s for s in _shots(address, asked) if not asked.only or s.name in asked.only]
        chromium = shutil.which("chromium") or shutil.which("chromium-browser")
        root = hasattr(os, "geteuid") and os.geteuid() == 0  # its sandbox refuses to run as root
        browser = driver.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"] if root else []
        )
        for shot in shots:
            for theme in ("light", "dark"):
                _take(browser, address, shot, theme, WIDE, f"{shot.name}-{theme}", asked.out)
            if shot.phone:
                _take(browser, address, shot, "light", PHONE, f"{shot.name}-390", asked.out)
        browser.close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("atlas", type=Path)
    parser.add_argument("--runs", type=Path, help="where runs and other atlases lie")
    parser.add_argument("--feature", type=int, default=2338)
    parser.add_argument("--edit", default="927=add:0.4norm")
    parser.add_argument("--only", action="append", help="a page's name; repeatable")
    parser.add_argument("--out", type=Path, default=HERE)
    return parser.parse_args()


def _shots(address: str, asked: argparse.Namespace) -> list[Shot]:
    lab = urlencode({"e": asked.edit, "p": PROMPT, "n": 32, "run": 1})
    runs = _get(address, "/runs")["runs"]
    best = max(runs, key=lambda run: (run["held_out"] is not None, run["n_tokens"]))
    shots = [
        Shot("atlas", "/", ".g-row.body .label", phone=True),
        Shot("feature", f"/f/{asked.feature}", ".contexts > li", phone=True),
        Shot("lens", f"/lens?{urlencode({'t': TEXT})}", ".lens .lats a"),
        Shot("lab", f"/steer?{lab}", ".ans.steered [role=status]", "tokens"),
        Shot("run", f"/run?{urlencode({'run': best['id']})}", ".scatter circle", phone=True),
    ]
    atlases = _get(address, "/atlases")["atlases"]
    own = next(row["id"] for row in atlases if row["here"])
    other = next((r["id"] for r in atlases if not r["here"] and not r["trouble"]), None)
    if other is not None:
        shots.append(Shot("compare", f"/compare?{urlencode({'a': own, 'b': other})}", ".family"))
    return shots


def _take(
    browser: Browser, address: str, shot: Shot, theme: Any, size: tuple[int, int], name: str,
    out: Path,
) -> None:  # fmt: skip
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=theme
    )
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.goto(address + shot.address)
    page.locator(shot.there).first.wait_for()
    expect(page.locator(".chip.model")).to_have_text("model ready", timeout=PATIENCE_MS)
    if shot.says:
        expect(page.locator(shot.there)).to_contain_text(shot.says, timeout=PATIENCE_MS)
    busy = page.locator(".loading, main .stale, main [aria-busy=true]")
    expect(busy).to_have_count(0, timeout=PATIENCE_MS)
    page.wait_for_timeout(700)  # colours and maps settle
    path = out / f"{name}.png"
    path.write_bytes(_packed(page.screenshot(animations="disabled")))
    context.close()
    print(f"{path} {path.stat().st_size / 1000:.0f} kB")


def _packed(png: bytes) -> bytes:
    """The same picture with its pixels packed as tightly as zlib can."""
    head, kept, pixels, at = png[:8], [], b"", 8
    while at < len(png):
        (length,), kind = struct.unpack(">I", png[at : at + 4]), png[at + 4 : at + 8]
        data = png[at + 8 : at + 8 + length]
        if kind == b"IDAT":
            pixels += data
        else:
            kept.append((kind, data))
        at += length + 12
    kept.insert(-1, (b"IDAT", zlib.compress(zlib.decompress(pixels), 9)))
    return head + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in kept
    )


@contextmanager
def _viewer(atlas: Path, runs: Path | None) -> Iterator[str]:
    """`monoscope view` on any free port, its model loaded and its map made; yields its address."""
    command = [sys.executable, "-m", "monoscope", "view", str(atlas), "--port", "0"]
    command += ["--no-browser", "--json", *(["--runs", str(runs)] if runs else [])]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = str(json.loads(server.stdout.readline())["url"]).rstrip("/")
        if not _get(address, "/map")["available"]:
            with urlopen(_post(address, "/map")) as answer:
                answer.read()
        while _get(address, "/status")["model"]["state"] == "loading":
            time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait()


def _get(address: str, path: str) -> Any:
    with urlopen(f"{address}/api/v1{path}") as answer:
        return json.load(answer)


def _post(address: str, path: str) -> Request:
    headers = {"content-type": "application/json"}
    return Request(f"{address}/api/v1{path}", b"{}", headers, method="POST")


if __name__ == "__main__":
    main()
