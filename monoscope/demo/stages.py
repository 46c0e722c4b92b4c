"""The main job, stage by stage; a stage that is finished in the output folder is not done again."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from monoscope import assets
from monoscope.artifact.checks import weights_hash
from monoscope.data.corpus import Corpus
from monoscope.data.folder import Folder
from monoscope.data.harvest import collect
from monoscope.data.manifest import read_manifest
from monoscope.data.store import ActivationStore
from monoscope.demo.clock import SECONDS, Clock
from monoscope.demo.report import model_name, render_report
from monoscope.demo.terminal import show
from monoscope.demo.writer import SAMPLE_PROMPTS, steer_sample
from monoscope.errors import FormatError, MismatchError
from monoscope.evals.run import evaluate
from monoscope.features.atlas import Atlas, load_atlas
from monoscope.features.index import index
from monoscope.features.labels import SUMMARY_FILE, label, label_summary
from monoscope.files import remove_partials, require_folder, write_atomic
from monoscope.lm import load_lm
from monoscope.lm.protocol import LM
from monoscope.locks import folder_lock
from monoscope.progress import Bar
from monoscope.sae import SAE
from monoscope.train import train

SUMMARY, REPORT = "summary.json", "report.html"
_OURS = ("store", "sae", "atlas", "eval.json", "steer.json", REPORT, SECONDS)
_PASSES = 8  # over the train split, by default
_SPLICE_TOKENS = 8192
_N_SHOWN = 10
# What `steer` has whether or not there was a feature to steer with.
_STEERED = (
    "prompt", "default", "steered", "edits", "relative_norm", "kl", "label", "promise", "promised",
)  # fmt: skip


def run_demo(
    out: str | Path = "runs/demo",
    *,
    tokens: int = 600_000,
    d_sae: int = 4096,
    site: str = "resid_post.15",
    model: str = "demo",
    seed: int = 0,
    train_tokens: int | None = None,
    as_json: bool = False,
) -> dict[str, Any]:
    """Harvest, train, evaluate, index, label and steer; show it, and write report.html.

    tokens: harvested; train_tokens: trained on, default eight passes over the train split.
    as_json: what is shown goes to standard error, where progress goes anyway.
    Returns what summary.json holds: the figures of each stage under its verb's name, "seconds" by
    stage (of work on it in all runs, kept through kills; None for one that no demo timed), and
    which stages were "reused".

    Raises MismatchError if `out` holds a stage made with other settings, OutputError if it holds
    something else or another demo writes there, and whatever the stages raise.
    """
    folder = require_folder(out, SUMMARY, also=_OURS)
    with folder_lock(folder, "demo"):
        remove_partials(folder)
        job = _Job(folder, Clock(folder), seed)
        with job.stage("load", "load the model"):
            lm = load_lm(model)
        store = job.collect(lm, site, tokens)
        sae = job.train(store, d_sae, train_tokens)
        job.evaluate(sae, store, lm)
        atlas = job.index(sae, store, lm)
        job.label(atlas, sae, store)
        job.steer(lm, sae, atlas, store)
        return _finish(job, atlas, store, lm, model, Console(stderr=as_json))


def _finish(
    job: _Job, atlas: Atlas, store: ActivationStore, lm: LM, model: str, console: Console
) -> dict[str, Any]:
    """Write report and summary, then show them."""
    folder = job.folder
    summary: dict[str, Any] = {
        "out": str(folder),
        "model": dict(lm.identity),
        "model_argument": model,
        "site": str(store.site),
        **job.figures,
        "seconds": job.seconds,
        "reused": job.reused,
        "report": str(folder / REPORT),
    }
    features = [atlas.feature(row.latent) for row in atlas.list(sort="interest", limit=_N_SHOWN)]
    rows = atlas.list(sort="density", limit=atlas.n_features)
    credits = credits_of(lm, store)
    page = render_report(
        summary,
        events=_events(folder / "sae" / "events.jsonl"),
        densities=[row.density for row in rows],
        features=features,
        attributions=credits,
    )
    write_atomic(folder / REPORT, page)
    write_atomic(folder / SUMMARY, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    show(console, summary, features, credits)
    return summary


def credits_of(lm: LM, store: ActivationStore) -> list[str]:
    """Whom the model that was read, and the texts in the store, are owed to; one line each."""
    name = lm.identity["model"]
    if name == assets.DEMO:
        model = [str(given) for given in assets.attributions() if given.name == model_name(name)]
    else:
        model = [f"{name}: language model, under the licence that its makers give it"]
    return [*model, *store.manifest.attribution]


@dataclass
class _Job:
    """The stages of one run over one folder, with what each gave and how long it took."""

    folder: Path
    clock: Clock
    seed: int
    figures: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float | None] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)

    def collect(self, lm: LM, site: str, tokens: int) -> ActivationStore:
        path = self.folder / "store"
        held = read_manifest(Folder(path))
        done = held is not None and held.complete
        with self.stage("collect", f"collect {tokens:,} tokens at {site}", done) as bar:
            corpus = Corpus.demo(self.seed)
            store = collect(
                lm, corpus, site, tokens, path, seed=self.seed, progress=bar.harvested
            )  # fmt: skip
        spent = self.seconds["collect"]
        self.figures["collect"] = {
            "n_tokens": store.n_tokens(),
            "d_in": store.d_in,
            "site": str(store.site),
            "tokens_per_s": spent and round(store.manifest.n_tokens_read / spent, 1),
            "bytes": store.manifest.n_bytes(),
            "out": str(path),
            "n_train": store.n_tokens("train"),
            "n_held_out": store.n_tokens("held_out"),
            "n_documents": store.n_documents(),
            "exhausted": store.manifest.exhausted,
        }
        return store

    def train(self, store: ActivationStore, d_sae: int, n_tokens: int | None) -> SAE:
        path = self.folder / "sae"
        total = _PASSES * store.n_tokens("train") if n_tokens is None else n_tokens
        done = (path / "sae.json").exists()
        with self.stage("train", f"train {d_sae:,} latents on {total:,} tokens", done) as bar:
            run = train(
                store, d_sae=d_sae, recipe="batchtopk", k=32, n_tokens=total, seed=self.seed,
                out=path, resume=True, progress=bar.trained,
            )  # fmt: skip
        given = run.sae.provenance.get("corpus_fingerprint")
        if given != store.manifest.corpus_fingerprint:
            raise _other(path, "corpus", store.manifest.corpus_fingerprint[:12], str(given)[:12])
        self.figures["train"] = dict(run.metrics)
        return run.sae

    def evaluate(self, sae: SAE, store: ActivationStore, lm: LM) -> None:
        asked = {
            "sae": weights_hash(sae),
            "corpus_fingerprint": store.manifest.corpus_fingerprint,
            "n_tokens": store.n_tokens("held_out"),
            "n_splice_tokens": _SPLICE_TOKENS,
            "seed": self.seed,
        }
        what = "evaluate on held-out documents, beside baselines"
        with self.stage("eval", what, self._file("eval").exists()) as bar:
            self.figures["eval"] = self._kept(
                "eval", asked,
                lambda: evaluate(
                    sae, store, lm, n_splice_tokens=_SPLICE_TOKENS, seed=self.seed, progress=bar.at
                ).to_json(),
            )  # fmt: skip

    def index(self, sae: SAE, store: ActivationStore, lm: LM) -> Atlas:
        path = self.folder / "atlas"
        done = (path / "atlas.json").exists()
        with self.stage("index", "index every feature", done) as bar:
            if done:
                atlas = load_atlas(path)
                _check_atlas(atlas, sae, store)
            else:
                atlas = index(sae, store, lm, out=path, seed=self.seed, progress=bar.at)
        self.figures["index"] = atlas.to_json()
        return atlas

    def label(self, atlas: Atlas, sae: SAE, store: ActivationStore) -> None:
        done = (Path(atlas.folder) / SUMMARY_FILE).exists()
        what = "label them by rules, scored on held-out documents"
        with self.stage("label", what, done) as bar:
            if not done:
                atlas = label(atlas, sae, store, seed=self.seed, progress=bar.at)
        self.figures["label"] = {
            "n_features": atlas.n_features,
            "n_alive": atlas.n_alive,
            "n_labelled": sum(text is not None for text in atlas.labels().values()),
            "out": str(atlas.folder),
            **label_summary(atlas.folder),
        }

    def steer(self, lm: LM, sae: SAE, atlas: Atlas, store: ActivationStore) -> None:
        asked = {
            "sae": weights_hash(sae),
            "atlas": atlas.manifest["build"],
            "prompts": list(SAMPLE_PROMPTS),
            "seed": self.seed,
        }
        what = "find a feature that writes, and steer with it"
        with self.stage("steer", what, self._file("steer").exists()):
            found = self._kept(
                "steer", asked, lambda: steer_sample(lm, sae, atlas, store, seed=self.seed)
            )
        self.figures["steer"] = dict.fromkeys(_STEERED) | found

    @contextlib.contextmanager
    def stage(self, name: str, what: str, finished: bool = False) -> Iterator[Bar]:
        """Show and time a stage; one whose result is there already keeps the seconds it took."""
        with Bar(name, transient=True) as bar:
            if finished:
                yield bar
                self.clock.reuse(name)
                self.reused.append(name)
            else:
                with self.clock.time(name, bar.pulse):
                    yield bar
        spent = self.seconds[name] = self.clock.spent(name)
        bar.note(f"{what}: {'reused' if finished or spent is None else f'{spent:.1f} s'}")

    def _kept(
        self, name: str, asked: dict[str, Any], make: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """The figures in the stage's own file if they are of what is asked, else new ones."""
        path = self._file(name)
        if path.exists():
            try:
                held = json.loads(path.read_text(encoding="utf-8"))
                before, figures = dict(held["asked"]), dict(held["figures"])
            except (ValueError, KeyError, TypeError) as exc:
                hint = "Remove it and run the demo again."
                raise FormatError(f"{path} is damaged", got=exc, hint=hint) from exc
            for key, value in asked.items():
                if before.get(key) != value:
                    raise _other(path, key, value, before.get(key))
            return figures
        figures = make()
        write_atomic(path, json.dumps({"asked": asked, "figures": figures}, indent=1) + "\n")
        return figures

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.json"


def _check_atlas(atlas: Atlas, sae: SAE, store: ActivationStore) -> None:
    manifest = atlas.manifest
    pairs = (
        ("SAE", weights_hash(sae)[:12], manifest["sae"]["hash"][:12]),
        ("corpus", store.manifest.corpus_fingerprint[:12], manifest["corpus_fingerprint"][:12]),
        ("number of tokens", store.n_tokens("train"), manifest["n_tokens"]),
    )
    for what, asked, held in pairs:
        if asked != held:
            raise _other(atlas.folder, what, held=held, asked=asked)


def _other(path: Path, what: str, asked: object, held: object) -> MismatchError:
    return MismatchError(
        f"{path} was made with another {what}",
        got=asked,
        expected=f"{held}, as there",
        hint="Use another --out.",
    )


def _events(path: Path) -> list[dict[str, Any]]:
    """The training log; a last line that a kill cut short is left out."""
    events = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if "loss" in event:  # the others are notes
                events.append(event)
    return events
