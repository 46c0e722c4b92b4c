"""Training runs found in the folder: a line each, curves, evaluations, news while they train."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from monoscope.viewer import found, runs
from monoscope.viewer.state import ViewerState

NEWS_SECONDS = 0.5  # between looks at a run's file
BEAT_SECONDS = 15.0  # between signs of life while there is no news
MAX_FOLLOWED = 16
_Id = Annotated[str, Query(max_length=1000, description="A run's `id` in the list of runs.")]


class Measured(BaseModel):
    """Held-out figures of `monoscope eval`; `ci`: 95 % intervals over documents."""

    file: str
    figures: dict[str, Any]


class RunRow(BaseModel):
    """A run in the list. id: its folder below the root. status: "running", "quiet" (unfinished and
    without news for two minutes) or "finished". fvu, l0, dead_fraction: of its last event, or at
    its end measured on training data; held_out: the same of an evaluation, with intervals."""

    id: str
    status: runs.Status
    recipe: str | None = None
    activation: str | None = None
    d_in: int | None = None
    d_sae: int | None = None
    k: int | None = None
    lr: float | None = None
    seed: int | None = None
    n_tokens: int = 0
    total_tokens: int | None = None
    fvu: float | None = None
    l0: float | None = None
    dead_fraction: float | None = None
    changed: float
    held_out: dict[str, Any] | None = None


class RunList(BaseModel):
    """Every run found below root. more: the search was cut short, there may be others."""

    root: str
    runs: list[RunRow]
    more: bool


class Run(BaseModel):
    """All about one run but its curves. config: as it was resolved when it began; asked: the data
    and settings it was asked for with, null where the run kept none; metrics: at its end, on
    training data; data: what it was trained on; checkpoints: its figures where it saved itself;
    notes: events that are no figures."""

    row: RunRow
    config: dict[str, Any]
    asked: dict[str, Any] | None
    metrics: dict[str, Any] | None
    data: dict[str, Any]
    checkpoints: list[dict[str, Any]]
    evaluation: Measured | None
    notes: list[dict[str, Any]]


class Curve(BaseModel):
    """A run's figures as columns over its events, thinned. end: where in the file they end, from
    which `follow` goes on; n_events: how many there are in all."""

    id: str
    columns: dict[str, list[float | None]]
    notes: list[dict[str, Any]]
    n_events: int
    end: int


def router(state: ViewerState) -> APIRouter:
    """GET /api/v1/runs, /runs/one, /runs/curve, /runs/follow."""
    api = APIRouter(prefix="/api/v1/runs", tags=["runs"])
    root = (state.config.runs or state.config.atlas.resolve().parent).resolve()

    def run(name: str) -> Path:
        return found.inside(root, name, found.RUN)

    @api.get("")
    def every() -> RunList:
        """Every training run below the folder that the viewer was given."""
        seen = found.look(root)
        rows = [_row(folder, seen) for folder in seen.runs]
        return RunList(root=str(root), runs=rows, more=seen.more)

    @api.get("/one")
    def one(id: _Id) -> Run:
        """Config, data, checkpoints, evaluation and notes of a run."""
        return _run(run(id), found.look(root))

    @api.get("/curve")
    def curve(id: _Id, points: Annotated[int, Query(ge=2, le=5000)] = 800) -> Curve:
        """A run's figures over its events, thinned to about `points`."""
        tail = runs.read_from(run(id))
        return Curve(
            id=id, columns=runs.columns(tail.events, points), notes=_notes(tail.events),
            n_events=sum(map(runs.is_figures, tail.events)), end=tail.end,
        )  # fmt: skip

    @api.get(
        "/follow",
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}}},
    )
    async def follow(
        request: Request,
        id: Annotated[list[str], Query(max_length=MAX_FOLLOWED)],
        start: Annotated[list[int] | None, Query(max_length=MAX_FOLLOWED)] = None,
    ) -> StreamingResponse:
        """News of runs as they train: events `figures` and `status`; ends when all have ended.

        start: for each id, the byte of its events to go on from, as `end` of the curve.
        """
        begins = [max(0, at) for at in start or []]
        begins += [0] * (len(id) - len(begins))
        folders = [run(name) for name in id]
        return StreamingResponse(
            _news(request, list(zip(id, folders, begins, strict=False))),
            media_type="text/event-stream", headers={"cache-control": "no-cache"},
        )  # fmt: skip

    return api


async def _news(request: Request, followed: list[tuple[str, Path, int]]) -> AsyncIterator[str]:
    ends = {name: end for name, _, end in followed}
    told: dict[str, str] = {}
    waited = 0.0
    while not await request.is_disconnected():
        said = False
        for name, folder, _ in followed:
            # What is finished now has written its last event before: read the status first.
            stands = await asyncio.to_thread(_status, folder)
            tail = await asyncio.to_thread(runs.read_from, folder, ends[name])
            again = tail.end < ends[name]
            ends[name] = tail.end
            if tail.events:
                said = True
                yield _event("figures", {
                    "id": name, "again": again, "end": tail.end, "notes": _notes(tail.events),
                    "columns": runs.columns(tail.events, 5000),
                })  # fmt: skip
            if told.get(name) != stands:
                said = True
                told[name] = stands
                yield _event("status", {"id": name, "status": stands})
        if all(stands == "finished" for stands in told.values()):
            return
        waited = 0.0 if said else waited + NEWS_SECONDS
        if waited >= BEAT_SECONDS:
            waited = 0.0
            yield ": still here\n\n"
        await asyncio.sleep(NEWS_SECONDS)


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data, allow_nan=False)}\n\n"


def _status(folder: Path) -> runs.Status:
    return runs.status(folder, found.read_json(folder / found.RUN) or {})


def _row(folder: Path, seen: found.Found) -> RunRow:
    note = _finite(found.read_json(folder / found.RUN) or {})
    config = note.get("config") if isinstance(note.get("config"), dict) else {}
    sae, train = (
        {} if not isinstance(config.get(k), dict) else config[k] for k in ("sae", "train")
    )
    metrics = note.get("metrics") if isinstance(note.get("metrics"), dict) else None
    last = metrics if metrics is not None else _last(folder)
    measured = runs.evaluation(folder, seen)
    return RunRow.model_validate({
        "id": seen.name(folder), "status": runs.status(folder, note),
        "changed": runs.changed(folder),
        "recipe": train.get("recipe"), "lr": train.get("lr"), "seed": train.get("seed"),
        "total_tokens": train.get("n_tokens"), "n_tokens": last.get("n_tokens") or 0,
        **{name: sae.get(name) for name in ("activation", "d_in", "d_sae", "k")},
        **{name: last.get(name) for name in ("fvu", "l0", "dead_fraction")},
        "held_out": None if measured is None else _summary(_finite(measured[1])),
    })  # fmt: skip


def _summary(figures: dict[str, Any]) -> dict[str, Any]:
    ci = figures.get("ci") or {}
    wanted = ("fvu", "l0", "dead_fraction", "n_tokens", "kl", "delta_ce")
    return {
        **{name: figures.get(name) for name in wanted},
        "ci": {name: ci.get(name) for name in ("fvu", "l0") if ci.get(name)},
    }


def _last(folder: Path) -> dict[str, Any]:
    rows = [e for e in runs.read_from(folder).events if runs.is_figures(e)]
    return _finite(rows[-1]) if rows else {}


def _run(folder: Path, seen: found.Found) -> Run:
    note = _finite(found.read_json(folder / found.RUN) or {})
    measured = runs.evaluation(folder, seen)
    config, metrics, asked = note.get("config"), note.get("metrics"), note.get("asked")
    train = config.get("train") if isinstance(config, dict) else None
    every = train.get("checkpoint_every_tokens") if isinstance(train, dict) else None
    events = runs.read_from(folder).events
    return Run(
        row=_row(folder, seen),
        config=config if isinstance(config, dict) else {},
        asked=asked if isinstance(asked, dict) else None,
        metrics=metrics if isinstance(metrics, dict) else None,
        data=_finite(runs.data(folder)),
        checkpoints=runs.checkpoints(folder, every if isinstance(every, int) else None, events),
        evaluation=None if measured is None else Measured(
            file=seen.name(measured[0]), figures=_finite(measured[1])
        ),
        notes=_notes(events),
    )  # fmt: skip


def _notes(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [_finite(event) for event in events if not runs.is_figures(event)]


def _finite(value: Any) -> Any:
    """JSON has no NaN or infinity: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value
