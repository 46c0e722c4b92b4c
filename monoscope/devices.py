"""Which devices this machine has, and the one that somebody named.

Torch is imported when a device is asked for, not before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from monoscope.errors import ConfigError

if TYPE_CHECKING:
    import torch


def devices() -> list[str]:
    """The devices that torch can compute on here, cpu first: such as cpu, cuda:0, cuda:1."""
    import torch

    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if kind is None:
        return ["cpu"]
    return ["cpu", *(f"{kind.type}:{i}" for i in range(torch.accelerator.device_count()))]


def require_device(given: str | torch.device | None = None) -> torch.device:
    """The device that was named; without a name CUDA where there is one, else the CPU.

    Raises ConfigError, naming the devices there are, for any other.
    """
    import torch

    if given is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    here = devices()
    try:
        place = torch.device(given)
    except (RuntimeError, TypeError, ValueError) as exc:
        raise _no_such(given, here) from exc
    numbered = f"{place.type}:{place.index or 0}"
    if numbered not in here and not (place.type == "cpu" and not place.index):
        raise _no_such(given, here)
    return place


def _no_such(given: object, here: list[str]) -> ConfigError:
    shown = str(given) if type(given).__name__ == "device" else repr(given)
    return ConfigError(
        "no such device here",
        got=shown if len(shown) <= 60 else f"{shown[:60]}…",
        expected=f"one of {', '.join(here)}",
        hint=None if len(here) > 1 else "This torch finds no GPU: use cpu, or leave device out.",
    )
