"""The map of the latents: its points in binary, and making it where the atlas has none."""

from __future__ import annotations

import threading

import numpy as np
from fastapi import APIRouter, Response

from monoscope.errors import FormatError
from monoscope.features.map import add_map, read_map
from monoscope.viewer.api.features import BINARY
from monoscope.viewer.schemas import MapInfo
from monoscope.viewer.state import ViewerState

_HINT = "Make it with one click here, or index again with `monoscope index`."
_ORDER = "SELECT x, y, density FROM rows ORDER BY latent"
_FAINTEST, _STEPS = -6.0, 254  # log10 density shown as 1, and how many steps from there to dense


def router(state: ViewerState) -> APIRouter:
    """GET and POST /api/v1/map, GET /api/v1/map/points."""
    api = APIRouter(prefix="/api/v1/map", tags=["map"])
    making = threading.Lock()

    @api.get("")
    def info() -> MapInfo:
        """Whether the atlas has a map."""
        there = read_map(state.atlas) is not None
        return MapInfo(available=there, n=state.atlas.n_features, hint=None if there else _HINT)

    @api.post("")
    def make() -> MapInfo:
        """Lay out the map and keep it in the atlas; one that is there already stays."""
        with making:
            if read_map(state.atlas) is None:
                add_map(state.atlas)
                state.catalogue.remap()
        return MapInfo(available=True, n=state.atlas.n_features)

    @api.get("/points", response_class=Response, responses=BINARY)
    def points() -> Response:
        """Every latent's place and density, in binary.

        By latent: x [L] uint16, y [L] uint16, little-endian, 0 to 65535; then log density [L]
        uint8, 0 where it never fired.
        """
        if read_map(state.atlas) is None:
            raise FormatError("this atlas has no map", got=state.atlas.folder, hint=_HINT)
        found = state.catalogue.columns(_ORDER)
        place = [
            np.rint(np.nan_to_num(found[axis]) * 65535).astype("<u2").tobytes() for axis in "xy"
        ]
        density = np.asarray(found["density"], float)
        depth = (np.log10(np.maximum(density, 1e-12)) - _FAINTEST) / -_FAINTEST
        shade = np.where(density > 0, 1 + np.clip(depth, 0, 1) * _STEPS, 0).astype(np.uint8)
        return Response(b"".join([*place, shade.tobytes()]), media_type="application/octet-stream")

    return api
