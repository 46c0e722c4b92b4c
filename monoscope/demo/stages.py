"""The main job, stage by stage; a stage that is finished in the output folder is not done again."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from monoscope import assets
from monoscope.artifact.checks import weights_hash
from monoscope.data.corpus import Corpus
from monoscope.data.harvest import HarvestProgress, collect
from monoscope.data.store import ActivationStore
from monoscope.demo.report import render_report
from monoscope.demo.terminal import show
from monoscope.demo.writer import SAMPLE_PROMPTS, steer_sample
from monoscope.errors import FormatError, MismatchError
from monoscope.evals import evaluate
from monoscope.features.atlas import Atlas, load_atlas
from monoscope.features.index import index
from monoscope.features.labels import SUMMARY_FILE, label, label_summary
from monoscope.files import require_folder, write_atomic
from monoscope.lm import load_lm
from monoscope.lm.protocol import LM
from monoscope.sae import SAE
from monoscope.train import train
from monoscope.train.loop import Progress as TrainProgress

SUMMARY, REPORT = "summary.json", "report.html"
_OURS = ("store", "sae", "atlas", "eval.json", "steer.json", REPORT)
_PASSES = 8  # over the train split, by default
_SPLICE_TOKENS = 8192
_N_SHOWN = 10


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
    as_json: what is shown goes to standard error.  Returns what summary.json holds: the figures of
    each stage under its verb's name, "seconds" by stage, and which stages were "reused" (their
    seconds are those of the run that did them).

    Raises MismatchError if `out` holds a stage made with other settings, OutputError if it holds
    something else, and whatever the stages raise.
    """
    folder = require_folder(out, SUMMARY, also=_OURS)
    console = Console(stderr=as_json)
    job = _Job(folder, console, seed)
    with job.stage("load", "load the model"):
        lm = load_lm(model)
    store = job.collect(lm, site, tokens)
    sae = job.train(store, d_sae, train_tokens)
    job.evaluate(sae, store, lm)
    atlas = job.index(sae, store, lm)
    job.label(atlas, sae, store)
    job.steer(lm, sae, atlas, store)
    return _finish(job, atlas, store, lm, model)


def _finish(job: _Job, atlas: Atlas, store: ActivationStore, lm: LM, model: str) -> dict[str, Any]:
    """Write report and summary, then show them."""
    folder = job.folder
    summary: dict[str, Any] = {
        "out": str(folder),
        "model": dict(lm.identity),
        "model_argument": model,
        "site": str(store.site),
        **job.figures,
        "seconds": {name: round(value, 2) for name, value in job.seconds.items()},
        "reused": job.reused,
        "report": str(folder / REPORT),
    }
    features = [atlas.feature(row.latent) for row in atlas.list(sort="interest", limit=_N_SHOWN)]
    rows = atlas.list(sort="density", limit=atlas.n_features)
    attributions = [str(item) for item in assets.attributions()]
    page = render_report(
        summary,
        events=_events(folder / "sae" / "events.jsonl"),
        densities=[row.density for row in rows],
        features=features,
        attributions=attributions,
    )
    write_atomic(folder / REPORT, page)
    write_atomic(folder / SUMMARY, json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    show(job.console, summary, features, attributions)
    return summary


@dataclass
class _Job:
    """The stages of one run over one folder, with what each gave and how long it took."""

    folder: Path
    console: Console
    seed: int
    figures: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)

    def collect(self, lm: LM, site: str, tokens: int) -> ActivationStore:
        phases: set[str] = set()
        said: list[str] = []
        with self.stage("collect", f"collect {tokens:,} tokens at {site}") as tell:

            def progress(at: HarvestProgress) -> None:
                phases.add(at.phase)
                if at.message and at.phase == "exhausted":
                    said.append(at.message)
                tell(at.n_tokens, at.total, f"{at.tokens_per_s:,.0f} tokens/s")

            corpus = Corpus.demo(self.seed)
            path = self.folder / "store"
            store = collect(lm, corpus, site, tokens, path, seed=self.seed, progress=progress)
            self._note_reuse("collect", "reused" in phases)
        for message in said:
            self.console.print(message, markup=False)
        self.figures["collect"] = {
            "n_tokens": store.n_tokens(),
            "n_train": store.n_tokens("train"),
            "n_held_out": store.n_tokens("held_out"),
            "n_documents": store.n_documents(),
            "d_in": store.d_in,
            "site": str(store.site),
            "exhausted": store.manifest.exhausted,
            "out": str(path),
        }
        return store

    def train(self, store: ActivationStore, d_sae: int, n_tokens: int | None) -> SAE:
        path = self.folder / "sae"
        total = _PASSES * store.n_tokens("train") if n_tokens is None else n_tokens
        finished = (path / "sae.json").exists()
        with self.stage("train", f"train {d_sae:,} latents on {total:,} tokens") as tell:

            def progress(at: TrainProgress) -> None:
                for note in at.notes:
                    self.console.print(note, markup=False)
                figures = f"FVU {at.fvu:.3f} · L0 {at.l0:.0f} · {at.tokens_per_s:,.0f} tokens/s"
                tell(at.n_tokens, at.total, f"loss {at.loss:.3g} · {figures}")

            run = train(
                store, d_sae=d_sae, recipe="batchtopk", k=32, n_tokens=total, seed=self.seed,
                out=path, resume=True, progress=progress,
            )  # fmt: skip
            self._note_reuse("train", finished)
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
        with self.stage("eval", "evaluate on held-out documents, beside baselines") as tell:
            self.figures["eval"] = self._kept(
                "eval", asked,
                lambda: evaluate(
                    sae, store, lm, n_splice_tokens=_SPLICE_TOKENS, seed=self.seed, progress=tell
                ).to_json(),
            )  # fmt: skip

    def index(self, sae: SAE, store: ActivationStore, lm: LM) -> Atlas:
        path = self.folder / "atlas"
        with self.stage("index", "index every feature") as tell:
            if (path / "atlas.json").exists():
                atlas = load_atlas(path)
                _check_atlas(atlas, sae, store)
                self._note_reuse("index", True)
            else:
                atlas = index(sae, store, lm, out=path, seed=self.seed, progress=tell)
        self.figures["index"] = atlas.to_json()
        return atlas

    def label(self, atlas: Atlas, sae: SAE, store: ActivationStore) -> None:
        with self.stage("label", "label them by rules, scored on held-out documents") as tell:
            if (Path(atlas.folder) / SUMMARY_FILE).exists():
                self._note_reuse("label", True)
            else:
                label(atlas, sae, store, seed=self.seed, progress=tell)
            self.figures["label"] = label_summary(atlas.folder)

    def steer(self, lm: LM, sae: SAE, atlas: Atlas, store: ActivationStore) -> None:
        asked = {
            "sae": weights_hash(sae),
            "atlas": atlas.manifest["build"],
            "prompts": list(SAMPLE_PROMPTS),
            "seed": self.seed,
        }
        with self.stage("steer", "find a feature that writes, and steer with it"):
            self.figures["steer"] = self._kept(
                "steer", asked, lambda: steer_sample(lm, sae, atlas, store, seed=self.seed)
            )

    @contextlib.contextmanager
    def stage(self, name: str, what: str) -> Iterator[Callable[..., None]]:
        """Time a stage under a progress bar; yields tell(done, total, figures)."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(24),
            TextColumn("{task.fields[said]}"),
        )
        bar = Progress(
            *columns, TimeElapsedColumn(), console=self.console, transient=True,
            disable=not self.console.is_terminal,
        )  # fmt: skip
        began = time.perf_counter()
        with bar:
            task = bar.add_task(what, total=None, said="")
            yield _teller(bar, task)
        took = time.perf_counter() - began
        reused = name in self.reused
        self.seconds[name] = self._before().get(name, took) if reused else took
        mark = "reused" if reused else f"{took:.1f} s"
        self.console.print(f"{what}: {mark}", markup=False, highlight=False)

    def _kept(
        self, name: str, asked: dict[str, Any], make: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """The figures in the stage's own file if they are of what is asked, else new ones."""
        path = self.folder / f"{name}.json"
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
            self._note_reuse(name, True)
            return figures
        figures = make()
        write_atomic(path, json.dumps({"asked": asked, "figures": figures}, indent=1) + "\n")
        return figures

    def _note_reuse(self, name: str, reused: bool) -> None:
        if reused:
            self.reused.append(name)

    def _before(self) -> dict[str, float]:
        """Seconds by stage of the run that finished here earlier, if one did."""
        try:
            return dict(json.loads((self.folder / SUMMARY).read_text(encoding="utf-8"))["seconds"])
        except (FileNotFoundError, ValueError, KeyError):
            return {}


def _teller(bar: Progress, task: TaskID) -> Callable[..., None]:
    def tell(done: int, total: int, said: str = "") -> None:
        bar.update(task, completed=done, total=total, said=said)

    return tell


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
