"""Where a harvest begins: a new folder, or the unfinished store of the very same harvest."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from monoscope.data.folder import Folder
from monoscope.data.manifest import Arguments, Manifest, read_manifest
from monoscope.data.masking import MaskPolicy
from monoscope.data.norms import Moments
from monoscope.data.windows import CaptureLM, Documents
from monoscope.errors import MismatchError, OutputError
from monoscope.sites import Site

_OWN_FILES = re.compile(r"(shard-\d{5,}\.safetensors|docs-\d{5,}\.parquet)")


def fresh_manifest(
    lm: CaptureLM, corpus: Documents, site: Site, policy: MaskPolicy, arguments: Arguments
) -> Manifest:
    """The manifest of a harvest that has not begun."""
    d_in = lm.width(site)
    return Manifest(
        identity=dict(lm.identity),
        site=str(site),
        d_in=d_in,
        dtype=str(lm.dtype).removeprefix("torch."),
        prefix_ids=list(lm.prefix_ids),
        corpus=json.loads(json.dumps(corpus.description)),  # as it will be read back
        corpus_fingerprint=corpus.fingerprint,
        attribution=list(corpus.attribution),
        mask_policy=policy.to_dict(),
        arguments=arguments,
        train_moments=Moments.none(d_in).to_dict(),
    )


def begin(folder: Folder, fresh: Manifest, resume: bool) -> Manifest:
    """The manifest to go on from: that of the folder, or the fresh one, written at once.

    resume: whether a store that has shards may be gone on with, or reused if it is finished.

    Raises MismatchError if the folder's store was made otherwise, FormatError if its manifest is
    damaged or not ours, OutputError if it has shards and resume is False.
    """
    found = read_manifest(folder)
    if found is not None and found.shards:
        if not resume:
            raise OutputError(
                f"{folder.where} already holds a store",
                got=f"{found.n_tokens():,} tokens",
                hint="Resume it, or choose another folder.",
            )
        _must_match(folder, found, fresh)
    else:  # nothing was harvested there yet: nothing is lost by beginning anew
        found = None
    manifest = found or fresh
    if not manifest.complete:
        _tidy(folder, manifest)
    if found is None:
        manifest.write(folder)
    return manifest


def _must_match(folder: Folder, found: Manifest, fresh: Manifest) -> None:
    """Raise MismatchError naming the first thing in which the two harvests differ."""
    for (name, was), (_, now) in zip(_traits(found), _traits(fresh), strict=True):
        if was != now:
            raise MismatchError(
                f"{folder.where} holds a store harvested with another {name}",
                got=now,
                expected=f"{was}, as in the store",
                hint="Give the same again to go on with it, or choose another folder.",
            )


def _traits(manifest: Manifest) -> Iterator[tuple[str, object]]:
    for key in ("model", "weights", "tokenizer"):
        yield key if key == "model" else f"{key} of the model", manifest.identity.get(key)
    yield "model identity", manifest.identity
    yield "site", manifest.site
    yield "model dtype", manifest.dtype
    yield "d_in", manifest.d_in
    yield "prefix", manifest.prefix_ids
    yield "corpus", _Named(manifest.corpus_fingerprint, _corpus_name(manifest.corpus))
    yield "set of special tokens", manifest.mask_policy["special_ids"]
    yield "sink_ratio", manifest.mask_policy["sink_ratio"]
    for name, value in manifest.arguments:
        if name != "seed":
            yield name, value


@dataclass(frozen=True)
class _Named:
    """A hash that is compared, and what to call it in a message."""

    sha256: str
    name: str = field(compare=False)

    def __str__(self) -> str:
        return f"{self.name} (sha256 {self.sha256[:12]}…)"


def _corpus_name(description: Mapping[str, object]) -> str:
    return str(description.get("path") or description.get("name") or "a corpus")


def _tidy(folder: Folder, manifest: Manifest) -> None:
    """Delete what a killed harvest wrote but did not enter in the manifest."""
    folder.remove_partials()
    entered = {name for shard in manifest.shards for name in (shard.file, shard.docs_file)}
    for name in folder.names():
        if _OWN_FILES.fullmatch(name) and name not in entered:
            folder.remove(name)
