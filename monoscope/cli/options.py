"""The flags, each the same word with the same meaning in every verb that has it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from monoscope.errors import ConfigError

if TYPE_CHECKING:
    from monoscope.data.live import Live
    from monoscope.features.atlas import Atlas
    from monoscope.lm.protocol import LM
    from monoscope.sae import SAE
    from monoscope.sites import Site

_MODEL = "Language model: a hub id, a folder, a .gguf file, or demo."
_RECORDED = " Default: the one the SAE was trained on."

SaeDir = Annotated[str, typer.Argument(metavar="SAE", help="Folder of a trained SAE.")]
SaeBeside = Annotated[
    str | None,
    typer.Option("--sae", metavar="DIR", help="Default: the folder sae beside the atlas."),
]
AtlasDir = Annotated[str, typer.Argument(metavar="ATLAS", help="Folder of an atlas.")]
StoreDir = Annotated[str, typer.Option("--store", metavar="DIR", help="Store of activations.")]
Runs = Annotated[
    str | None,
    typer.Option("--runs", metavar="DIR", help="Where their SAEs lie. Default: beside them."),
]
Model = Annotated[str, typer.Option("--model", metavar="M", help=_MODEL)]
RecordedModel = Annotated[str | None, typer.Option("--model", metavar="M", help=_MODEL + _RECORDED)]
NoModel = Annotated[
    bool, typer.Option("--no-model", help="Load no model; leave out what needs one.")
]
CorpusName = Annotated[
    str, typer.Option("--corpus", metavar="C", help="A path or pattern, hf:NAME, -, or demo.")
]
SiteName = Annotated[str, typer.Option("--site", metavar="S", help="Such as resid_post.15.")]
Tokens = Annotated[int | None, typer.Option("--tokens", metavar="N", help="How many tokens.")]
Out = Annotated[str, typer.Option("--out", metavar="DIR", help="Folder to write.")]
Seed = Annotated[int, typer.Option("--seed", help="Of everything random.")]
Device = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="cpu, cuda, cuda:1 … Default: cuda if there is one.",
        # at once, and in every verb: some need the device only after a long while
        callback=lambda given: None if given is None else checked_device(given),
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, only that.")]
TrainModel = Annotated[
    str | None, typer.Option("--model", metavar="M", help="Train while this model reads …")
]
TrainCorpus = Annotated[str | None, typer.Option("--corpus", metavar="C", help="… this corpus …")]
TrainDocTokens = Annotated[
    int | None,
    typer.Option(
        "--max-doc-tokens", metavar="N",
        help="Of a longer document that a model reads, the rest is left out. Default: 1024.",
    ),
]  # fmt: skip
DSae = Annotated[int, typer.Option("--d-sae", metavar="L", help="Number of latents.")]


def recorded_model(sae: SAE, given: str | None, device: str | None) -> LM:
    """Load the model `given`, or the one in the SAE's provenance.

    Raises ConfigError if neither names one.
    """
    from monoscope.lm import load_lm

    name = given or (sae.provenance.get("model") or {}).get("model")
    if not name:
        raise ConfigError(
            "the SAE does not say which model it was trained on", hint="Name it with --model."
        )
    return load_lm(str(name), device=device)


def sae_beside(atlas: Atlas) -> str:
    """The SAE in the folder `sae` beside an atlas. Raises ConfigError where it is not there."""
    from monoscope.viewer.config import beside

    found = beside(atlas.folder, atlas.manifest["sae"]["hash"])
    if found is None:
        raise ConfigError(
            "the atlas's SAE is not beside it",
            got=f"none of its weights in {atlas.folder.resolve().parent / 'sae'}",
            hint="Name its folder with --sae.",
        )
    return str(found)


def atlas_of(sae: SAE, folder: str) -> Atlas:
    """The atlas in `folder`. Raises MismatchError where it is not this SAE's."""
    from monoscope.artifact.checks import check_atlas
    from monoscope.features.atlas import load_atlas

    atlas = load_atlas(folder)
    check_atlas(sae, atlas.manifest)
    return atlas


def checked_device(given: str | None) -> str:
    """The device `given`, or CUDA where there is one.

    Raises ConfigError for a device that does not exist here.
    """
    from monoscope.devices import require_device

    return str(require_device(given))


def count(given: float | None) -> float | None:
    """A number from the command line, where 32 and 32.0 are the count 32, and 0.01 is a share."""
    return int(given) if given is not None and float(given).is_integer() else given


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """`name=value` pairs; a value is read as JSON where it is JSON, else as text.

    Raises ConfigError for what is not a pair, or a name given twice.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not (name and equals and value):
            raise ConfigError("bad --set", got=repr(pair), expected="name=value")
        if name in settings:
            raise ConfigError("--set names a setting twice", got=repr(name))
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = value
    return settings


def check_one_source(
    verb: str, store: object, model: str | None, corpus: str | None, site: str | None,
    max_doc_tokens: int | None,
) -> None:  # fmt: skip
    """Raise ConfigError unless there is a store, or else a model with a corpus and a site."""
    flags = {"STORE": store or None, "--model": model, "--corpus": corpus, "--site": site}
    given = [name for name, value in flags.items() if value is not None]
    if given not in (["STORE"], ["--model", "--corpus", "--site"]):
        raise ConfigError(
            f"{verb} takes a store, or a model with a corpus and a site",
            got=", ".join(given) or "neither",
            expected="STORE, or --model, --corpus and --site",
        )
    if store and max_doc_tokens is not None:
        raise ConfigError(
            "--max-doc-tokens is for a model that reads documents",
            got="a store",
            hint="Of a store, collect said how much of each document it holds.",
        )


def train_source(
    store: str | None, model: str | None, corpus: str | None, site: str | None, seed: int,
    device: str | None, max_doc_tokens: int | None,
) -> Any:  # fmt: skip
    """The store, or the model reading its corpus, that `check_one_source` found in order."""
    if store is not None:
        from monoscope.cli.stores import open_store

        return open_store(store)
    assert model is not None and corpus is not None and site is not None
    return live_sources(model, corpus, [site], seed, device, max_doc_tokens)[0]


def live_sources(
    model: str, corpus: str, sites: Sequence[str | Site], seed: int, device: str | None,
    max_doc_tokens: int | None,
) -> list[Live]:  # fmt: skip
    """The model reading the corpus, at each of the sites.

    Raises SiteError for a site that it lacks, ConfigError for a number out of range, and what
    loading a model or a corpus raises.
    """
    from monoscope.data.corpus import Corpus
    from monoscope.data.live import Live
    from monoscope.lm import load_lm

    lm, texts = load_lm(model, device=device), Corpus.from_name(corpus, None, seed)
    most = Live.max_doc_tokens if max_doc_tokens is None else max_doc_tokens
    return [Live(lm, texts, site, max_doc_tokens=most) for site in sites]
