"""Lineage: an atlas's features and those of a smaller and a larger SAE, as `splitting` ties them.

The larger atlas keeps a table `parents`, the smaller a table `children`; each names the other atlas
by its path from its own folder and by the hash of its SAE's weights, which a new index of the same
SAE keeps. An atlas holds one of either kind, so that a chain of sizes hangs together.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monoscope.errors import ConfigError, FormatError, MonoscopeError
from monoscope.features import schema, side
from monoscope.locks import folder_lock

if TYPE_CHECKING:
    from monoscope.data.store import ActivationStore
    from monoscope.features.atlas import Atlas
    from monoscope.sae import SAE

PARENTS, CHILDREN = "parents", "children"
N_TOKENS = 65_536
_KEPT_OPEN = 4


@dataclass(frozen=True)
class Kin:
    """A latent of another SAE, tied to this one by decoder direction, at `cosine`.

    n_active, n_both: tokens, of those read, on which it fires, and on which both do.
    parent_given_child: P(parent fires | child fires). contingency: that, less P(parent fires |
    child silent). agrees: whether the parent is also the one with the highest contingency;
    by_firing: which one that is, None where the child fires with none. label: None where it has
    none or its atlas is not at hand.
    """

    latent: int
    label: str | None
    cosine: float
    n_active: int
    n_both: int
    parent_given_child: float
    contingency: float
    agrees: bool
    by_firing: int | None


@dataclass(frozen=True)
class Relation:
    """A feature's kin in one other atlas: its parent, or its children; empty where it has none.

    atlas: the other's folder, from this atlas's own. trouble: why that cannot be read, or None.
    d_sae: latents there; n_tokens: how many tokens both SAEs read. chance: the cosine that 99 % of
    random directions stay below, when each is given its nearest. kin: those that agree in firing
    first, then by cosine.
    """

    atlas: str
    d_sae: int
    n_tokens: int
    chance: float
    trouble: str | None
    kin: list[Kin]


def check_pair(small: Atlas, large: Atlas) -> None:
    """Raise ConfigError unless `small` is the smaller, MismatchError unless of one model."""
    from monoscope.features.compare import check_comparable

    if small.n_features >= large.n_features:
        same = small.n_features == large.n_features
        raise ConfigError(
            "features split from a smaller SAE to a larger: the smaller atlas comes first",
            got=f"d_sae {small.n_features} and {large.n_features}",
            hint="For two of one size there is `monoscope compare`."
            if same
            else "Give the two in the other order.",
        )
    check_comparable(small.manifest, large.manifest)


def keep_splitting(
    small: Atlas,
    large: Atlas,
    small_sae: SAE,
    large_sae: SAE,
    store: ActivationStore,
    *,
    n_tokens: int = N_TOKENS,
    seed: int = 0,
) -> dict[str, Any]:
    """Tie the features of two atlases and keep the ties with both; a summary.

    What an atlas held of another smaller, or larger, SAE is replaced. n_tokens: train tokens read.

    Raises as `check_pair`; ConfigError for n_tokens below 1; MismatchError for an SAE that is not
    its atlas's or not of the store; OutputError where an atlas cannot be written or another command
    writes to it.
    """
    from monoscope.features.labels import check_same
    from monoscope.features.splitting import splitting

    if n_tokens < 1:
        raise ConfigError("n_tokens is out of range", got=n_tokens, expected="at least 1")
    check_pair(small, large)
    check_same(small, small_sae, store)
    check_same(large, large_sae, store)
    with folder_lock(small.folder, "split"), folder_lock(large.folder, "split"):
        found = splitting(small_sae, large_sae, store, n_tokens=n_tokens, seed=seed)
        return _keep(small, large, found, min(n_tokens, store.n_tokens("train")))


def _keep(small: Atlas, large: Atlas, found: pa.Table, n_read: int) -> dict[str, Any]:
    agrees = pc.fill_null(pc.equal(found["parent"], found["parent_by_firing"]), False)
    found = found.append_column("agrees", agrees)
    for name, holder, other in ((PARENTS, large, small), (CHILDREN, small, large)):
        table = _side(found, name, _identity(holder, other, n_read))
        schema.write_table(table, name, holder.folder / schema.table_file(name), holder.manifest)
    return {
        "small": str(small.folder),
        "large": str(large.folder),
        "n_tokens": n_read,
        "n_children": len(found),
        "n_parents": len(set(found["parent"].to_pylist())),
        "n_agree": sum(found["agrees"].to_pylist()),
        "median_cosine": float(np.median(found["cosine"].to_numpy())),
        "chance": found["chance"][0].as_py(),
    }


def relation(atlas: Atlas, name: str, latent: int) -> Relation | None:
    """A feature's PARENTS or CHILDREN; None where the atlas was tied to no other on that side.

    Raises FormatError if the table is damaged.
    """
    table = side.read_table(atlas, name, latent)
    if table is None:
        return None
    about = table if len(table) else side.read_table(atlas, name)
    if about is None or not len(about):
        return None
    named = about.slice(0, 1).to_pylist()[0]
    rows = table.to_pylist()
    labels: Mapping[int, str | None] = {}
    trouble = None
    try:
        labels = _other(atlas, named).labels([row["other"] for row in rows])
    except MonoscopeError as exc:
        trouble = str(exc)
    kin = [
        Kin(
            latent=row["other"],
            label=labels.get(row["other"]),
            n_active=row["n_other"],
            **{key: row[key] for key in _FIGURES},
        )
        for row in rows
    ]
    kin.sort(key=lambda one: (not one.agrees, -one.cosine, one.latent))
    about_it = {key: named[key] for key in ("atlas", "d_sae", "n_tokens", "chance")}
    return Relation(trouble=trouble, kin=kin, **about_it)


def other_folder(atlas: Atlas, path: str) -> Path:
    """Where the atlas at `path`, from this one's folder, lies."""
    return (atlas.folder.resolve() / path).resolve()


def tree(atlas: Atlas, latent: int) -> dict[str, Any]:
    """A feature with its children, and theirs, as far as atlases were tied together.

    Each: latent, label, d_sae of its SAE, `children`, and the figures of `Kin` but on the first.
    trouble: why a branch ends early, or None.

    Raises LatentError for a latent the SAE lacks, ConfigError where the atlas is tied to no larger
    one, FormatError where a table is damaged.
    """
    latent = atlas.require(latent)
    if side.read_table(atlas, CHILDREN, latent) is None:
        raise ConfigError(
            "the atlas is tied to no larger one",
            got=atlas.folder,
            hint="Tie them first: monoscope split SMALL_ATLAS LARGE_ATLAS --store DIR.",
        )
    first = {"latent": latent, "label": atlas.labels([latent])[latent]}
    return first | _below(atlas, latent)


def _below(atlas: Atlas, latent: int) -> dict[str, Any]:
    found = relation(atlas, CHILDREN, latent)
    told = _leaf(atlas.n_features)
    if found is None:
        return told
    told["trouble"] = found.trouble
    larger = None if found.trouble else _open(other_folder(atlas, found.atlas), found.atlas)
    if larger is not None and larger.n_features <= atlas.n_features:
        raise FormatError(f"the table of children of {atlas.folder} is damaged", hint=_AGAIN)
    for kin in found.kin:
        below = _leaf(found.d_sae) if larger is None else _below(larger, kin.latent)
        told["children"].append(asdict(kin) | {"chance": found.chance} | below)
    return told


def _leaf(d_sae: int) -> dict[str, Any]:
    return {"d_sae": d_sae, "trouble": None, "children": []}


_FIGURES = ("cosine", "n_both", "parent_given_child", "contingency", "agrees", "by_firing")


def _identity(holder: Atlas, other: Atlas, n_tokens: int) -> dict[str, Any]:
    here, there = holder.folder.resolve(), other.folder.resolve()
    return {
        "atlas": Path(os.path.relpath(there, here)).as_posix(),
        "sae": other.manifest["sae"]["hash"],
        "d_sae": other.n_features,
        "n_tokens": n_tokens,
    }


def _side(found: pa.Table, name: str, identity: Mapping[str, Any]) -> pa.Table:
    """The ties as one atlas keeps them: its own latents first, in order."""
    own, other = ("child", "parent") if name == PARENTS else ("parent", "child")
    columns = {
        "latent": found[own],
        "other": found[other],
        "n_other": found[f"n_{other}"],
        "by_firing": found["parent_by_firing"],
        "chance": found["chance"],
        **{key: found[key] for key in _FIGURES if key != "by_firing"},
        **{key: [value] * len(found) for key, value in identity.items()},
    }
    order = [("latent", "ascending"), ("other", "ascending")]
    return pa.table(columns).select(schema.OPTIONAL[name].names).cast(
        schema.OPTIONAL[name]
    ).sort_by(order)  # fmt: skip


def _other(atlas: Atlas, named: Mapping[str, Any]) -> Atlas:
    """The other atlas of a tie; FormatError where it is not there or is of another SAE by now."""
    other = _open(other_folder(atlas, named["atlas"]), named["atlas"])
    if other.manifest["sae"]["hash"] != named["sae"]:
        raise FormatError(f"the atlas at {named['atlas']} is of another SAE now", hint=_AGAIN)
    return other


def _open(folder: Path, shown: str = "") -> Atlas:
    try:
        changed = (folder / schema.MANIFEST).stat().st_mtime_ns
    except OSError as exc:
        raise FormatError(f"no atlas is at {shown or folder.name} any more", hint=_AGAIN) from exc
    return _opened(folder, changed)


@lru_cache(maxsize=_KEPT_OPEN)
def _opened(folder: Path, changed: int) -> Atlas:
    from monoscope.features.atlas import load_atlas

    return load_atlas(folder)


_AGAIN = "Run `monoscope split` again on the two atlases."
