"""The JSON API: each module here has `router(state) -> APIRouter`, and is found by being here."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

from fastapi import APIRouter

from monoscope.viewer.state import ViewerState


def routers(state: ViewerState) -> Iterator[APIRouter]:
    """The router of every module of this package that has one, in order of name."""
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        module = importlib.import_module(f"{__name__}.{info.name}")
        make = getattr(module, "router", None)
        if make is not None:
            yield make(state)
