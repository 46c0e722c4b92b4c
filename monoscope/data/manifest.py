"""Manifest: what a store says about itself, read and written as `manifest.json`."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from monoscope.data.folder import Folder
from monoscope.data.masking import MaskPolicy
from monoscope.data.norms import Moments
from monoscope.errors import FormatError, require_version

MANIFEST = "manifest.json"
FORMAT: Literal["monoscope.store"] = "monoscope.store"
SCHEMA_VERSION: Literal[1] = 1

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = ("train", "held_out")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ShardInfo(_Strict):
    """One shard: a file of activations and the file of the documents they come from."""

    file: str
    docs_file: str
    split: Split
    n_tokens: int
    n_docs: int
    bytes: int
    sha256: str
    docs_bytes: int
    docs_sha256: str


class Arguments(_Strict):
    """The arguments of the harvest, as given; a resumed one must have the same, but for `seed`.

    Nothing in a harvest is random: `seed` is recorded so that the whole run can be told from here.
    """

    n_tokens: int
    held_out: float
    context_length: int
    max_doc_tokens: int
    batch_tokens: int
    shard_tokens: int
    seed: int


class Manifest(_Strict):
    """Everything a store knows of itself but its activations.

    dtype: of the activations, such as "bfloat16"; d_in: D.
    n_documents_read: corpus documents consumed; n_tokens_read: their tokens, before the mask.
    n_documents_cut: those longer than max_doc_tokens; n_tokens_cut: about how many of their
    tokens were left out.
    exhausted: the corpus ended before arguments.n_tokens were found.
    complete: the harvest ended; otherwise it can be resumed.
    train_moments: sums over the train tokens in fp64, see `Moments`.
    """

    format: Literal["monoscope.store"] = FORMAT
    schema_version: Literal[1] = SCHEMA_VERSION
    identity: dict[str, str]
    site: str
    d_in: int
    dtype: str
    prefix_ids: list[int]
    corpus: dict[str, Any]
    corpus_fingerprint: str
    attribution: list[str]
    mask_policy: dict[str, Any]
    arguments: Arguments
    complete: bool = False
    exhausted: bool = False
    n_documents_read: int = 0
    n_documents_cut: int = 0
    n_tokens_cut: int = 0
    n_tokens_read: int = 0
    train_moments: dict[str, Any]
    shards: list[ShardInfo] = []

    def n_tokens(self, split: Split | None = None) -> int:
        """Stored tokens of a split, or of both."""
        return sum(s.n_tokens for s in self.shards if split in (None, s.split))

    def n_documents(self, split: Split | None = None) -> int:
        """Stored documents of a split, or of both."""
        return sum(s.n_docs for s in self.shards if split in (None, s.split))

    def n_bytes(self) -> int:
        """Bytes of all shards, activations and documents."""
        return sum(s.bytes + s.docs_bytes for s in self.shards)

    @property
    def policy(self) -> MaskPolicy:
        """The mask policy as the object that applies it."""
        return MaskPolicy.from_dict(self.mask_policy)

    @property
    def moments(self) -> Moments:
        """The moments of the train tokens."""
        return Moments.from_dict(self.train_moments)

    def with_policy(self, policy: MaskPolicy) -> Manifest:
        """The same manifest with another mask policy."""
        return self.model_copy(update={"mask_policy": policy.to_dict()})

    def write(self, folder: Folder) -> None:
        """Replace the folder's manifest in one step, a line for each key and each shard."""
        lines = [f"  {_json(k)}: {_lines(v)}" for k, v in self.model_dump(mode="json").items()]
        folder.write_text(MANIFEST, "{\n" + ",\n".join(lines) + "\n}\n")


def read_manifest(folder: Folder) -> Manifest | None:
    """The manifest of a folder; None if it has none.

    Raises FormatError for one that is damaged, foreign, or from a newer version.
    """
    if folder.size(MANIFEST) is None:
        return None
    where = f"{folder.where}/{MANIFEST}"
    try:
        data = json.loads(folder.read_bytes(MANIFEST))
    except ValueError as exc:
        raise FormatError(f"{where} is not readable JSON", got=exc) from exc
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise FormatError(f"{where} is not the manifest of an activation store")
    require_version(where, data.get("schema_version"), SCHEMA_VERSION)
    try:
        manifest = Manifest.model_validate(data)
        _ = manifest.policy, manifest.moments
    except ValidationError as exc:
        first = exc.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise FormatError(f"{where} is damaged at {key}", got=first["msg"]) from exc
    except (KeyError, TypeError, ValueError) as exc:
        raise FormatError(f"{where} is damaged", got=exc) from exc
    return manifest


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _lines(value: object) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(f"    {_json(v)}" for v in value) + "\n  ]"
    return _json(value)
