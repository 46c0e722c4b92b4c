"""What a viewer is told: its atlas, the model and SAE it may load, and where it listens."""

from __future__ import annotations

import ipaddress
import json
import socket
from dataclasses import dataclass
from pathlib import Path

from monoscope.errors import ConfigError

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_EVERYWHERE = frozenset({"0.0.0.0", "::"})


@dataclass(frozen=True, kw_only=True)
class ViewerConfig:
    """Settings of one viewer; constructing it checks them and opens nothing.

    atlas: folder of the atlas. sae: folder of its SAE, None to browse only. model: a language
    model's name, None for the one that the SAE was trained on. runs: folder in which training runs
    are looked for. token: what a client must show; required where host is not this machine's own.
    names: further host names under which the page may be asked for. max_body: bytes of a request.

    Raises ConfigError for a port or size out of range, or an open address without a token.
    """

    atlas: Path
    sae: Path | None = None
    model: str | None = None
    runs: Path | None = None
    device: str | None = None
    host: str = "127.0.0.1"
    port: int = 8642
    token: str | None = None
    names: tuple[str, ...] = ()
    max_body: int = 1_000_000

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise ConfigError("port out of range", got=self.port, expected="0 to 65535")
        if self.max_body < 1:
            raise ConfigError("max_body out of range", got=self.max_body, expected="at least 1")
        if self.token is not None and len(self.token) < 16:
            raise ConfigError("the token is too short", expected="16 characters or more")
        if not self.loopback and self.token is None:
            raise ConfigError(
                "an address that other machines can reach needs a token",
                got=f"host {self.host}",
                expected="a token, or 127.0.0.1",
            )

    @property
    def page_host(self) -> str:
        """The host in the page's address: this machine's name where it listens on every address."""
        return socket.gethostname() if self.host in _EVERYWHERE else self.host

    @property
    def root(self) -> Path:
        """The folder below which runs and other atlases are looked for."""
        return (self.runs or self.atlas.resolve().parent).resolve()

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.host in LOOPBACK_NAMES:
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def beside(atlas: Path, weights: str) -> Path | None:
    """The SAE folder next to an atlas, as `monoscope demo` leaves them; None if there is none.

    weights: the hash in the atlas. A folder that records other weights is not taken; one that
    records none is checked when it is loaded.
    """
    folder = atlas.resolve().parent / "sae"
    try:
        manifest = json.loads((folder / "sae.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    recorded = manifest.get("weights_hash") if isinstance(manifest, dict) else None
    return folder if recorded in (None, weights) else None
