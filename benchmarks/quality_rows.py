"""The rows of the quality comparison: how they are told apart, kept in one JSON file and tabled."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from monoscope.files import write_atomic

Row = dict[str, Any]
BATCH_SIZE, D_SAE = 2048, 4096  # of the comparison; others stand in the label
KEY = ("contender", "settings", "made_by", "n_tokens", "batch_size", "d_sae", "k", "seed", "store")


def key(row: Row) -> str:
    """What makes two runs the same run, as one string."""
    return json.dumps({name: row[name] for name in KEY}, sort_keys=True)


def read(path: Path) -> list[Row]:
    """The rows of a file; none if there is no file yet."""
    if not path.exists():
        return []
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return rows


def add(path: Path, row: Row) -> None:
    """Put a finished run among the rows of a file, in place of an older row of the same run."""
    rows = [old for old in read(path) if key(old) != key(row)] + [row]
    rows.sort(key=lambda r: (r["n_tokens"], r["contender"], label(r), r["seed"]))
    text = ",\n".join(json.dumps(r, sort_keys=True) for r in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, f'{{"rows": [\n{text}\n]}}\n')


def label(row: Row) -> str:
    """A contender and its settings, as the table calls them."""
    settings = dict(row["settings"])
    kind = settings.pop("recipe", settings.pop("architecture", settings.pop("optimizer", None)))
    kind = kind or ("signum" if row["contender"] == "sparsify" else "")
    rest = [f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in sorted(settings.items())]  # fmt: skip
    rest += [f"batch {row['batch_size']}"] if row["batch_size"] != BATCH_SIZE else []
    rest += [f"{row['d_sae']} latents"] if row["d_sae"] != D_SAE else []
    return " · ".join([f"{row['contender']} {kind}".strip(), *rest])


def kind(row: Row) -> str:
    """Contender and architecture, without the settings that were tried."""
    return label(row).split(" · ")[0]


def best(rows: Iterable[Row], which: str) -> Row | None:
    """The row of one kind with the lowest FVU; None if there is none."""
    return min((r for r in rows if kind(r) == which), key=lambda r: r["fvu"], default=None)


def table(rows: list[Row]) -> str:
    """Markdown: by budget and label the median FVU over seeds, its spread, and the rest.

    ratio: to the lowest median FVU of the peers at that budget.
    """
    out = []
    for n_tokens in sorted({r["n_tokens"] for r in rows}):
        here: dict[str, list[Row]] = {}
        for row in rows:
            if row["n_tokens"] == n_tokens:
                here.setdefault(label(row), []).append(row)
        peers = [_median(group, "fvu") for group in here.values() if _is_peer(group[0])]
        floor = min(peers, default=None)
        out += [f"{n_tokens:,} training tokens", "", _HEAD, "|---|---|---|---|---|---|---|"]
        for name, group in sorted(here.items(), key=lambda item: _median(item[1], "fvu")):
            fvu = [r["fvu"] for r in group]
            ratio = "–" if floor is None else f"{_median(group, 'fvu') / floor:.3f}"
            out.append(
                f"| {name} | {_median(group, 'fvu'):.4f} | {min(fvu):.4f} … {max(fvu):.4f} "
                f"| {_median(group, 'l0'):.1f} | {100 * _median(group, 'dead'):.1f} % "
                f"| {ratio} | {len(group)} |"
            )
        out.append("")
    return "\n".join(out)


_HEAD = "| contender | FVU, median | FVU, min … max | L0 | dead | × best peer | seeds |"


def _median(group: list[Row], name: str) -> float:
    return statistics.median(float(r[name]) for r in group)


def _is_peer(row: Row) -> bool:
    return bool(row["contender"] != "monoscope")
