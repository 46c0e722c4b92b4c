"""Has a language model name latents and judge the names: the whole of one run, with its controls.

Explanations are made from the atlas's examples (train documents) and judged on held-out documents.
Beside every score stand two controls: the same judge with another latent's explanation, and the
same path, explanation included, for latents of a frozen random SAE.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from monoscope.features.explain.cost import Budget, bill
from monoscope.features.explain.endpoint import Endpoint
from monoscope.features.explain.items import Item
from monoscope.features.explain.journal import Journal
from monoscope.features.explain.judge import Judge
from monoscope.features.explain.plan import Case, Settings, forecast, latent_cases, random_cases
from monoscope.features.explain.prompts import Prompts
from monoscope.features.explain.summary import judgement, summarise, table_row
from monoscope.features.explain.table import save
from monoscope.features.explain.windows import Encoder
from monoscope.features.labels import check_same
from monoscope.features.schema import EXPLAINED
from monoscope.features.side import merge_rows, write_summary
from monoscope.files import write_atomic
from monoscope.locks import folder_lock

if TYPE_CHECKING:
    from monoscope.data.store import ActivationStore
    from monoscope.features.atlas import Atlas
    from monoscope.sae.model import SAE

Progress = Callable[[int, int], None]
JUDGED = "judgements"


def explain(
    atlas: Atlas,
    sae: SAE,
    store: ActivationStore,
    endpoint: Endpoint,
    latents: Sequence[int],
    *,
    random_sae: Encoder | None = None,
    prompts: Prompts | None = None,
    budget: Budget | None = None,
    journal: Journal | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
    announce: Callable[[dict[str, Any]], None] | None = None,
    dry_run: bool = False,
    judge_labels: bool = False,
) -> dict[str, Any]:
    """Explain latents, judge the explanations, write table, labels and summary; the summary.

    random_sae: the control's encoder, of as many latents; None leaves that control out and says
    so. announce is told the estimated bill before anything is asked; dry_run: the summary is that
    bill, and nothing is asked. What `journal` holds is not
    asked again, so a run that was killed goes on.
    judge_labels: judge the labels that are there, a person's first, and explain nothing; what
    they earn is kept in the table `judgements` and changes no label. Latents without a label are
    left out, and there is no random control, which would have to be explained.

    Raises MismatchError if atlas, SAE and store do not belong together; LatentError; ConfigError
    if the estimate exceeds the budget; EndpointError if the endpoint fails or the budget is spent;
    DataError without held-out text; OutputError while another command labels the atlas.
    """
    prompts, budget, settings = prompts or Prompts(), budget or Budget(), settings or Settings()
    check_same(atlas, sae, store)
    wanted = [atlas.require(latent) for latent in dict.fromkeys(latents)]
    if judge_labels:
        given, random_sae = given_labels(atlas, wanted), None
        wanted = [latent for latent in wanted if latent in given]
    cases = latent_cases(atlas, sae, store, wanted, settings)
    for case in cases if judge_labels else ():
        case.given = given[case.latent][0]
    random = random_cases(random_sae, store, settings)
    expected = forecast([*cases, *random], cases, prompts, settings)
    if announce is not None:
        announce(bill(expected, budget.prices))
    if dry_run:
        return {"n_latents": len(cases), "estimated": bill(expected, budget.prices)}
    budget.approve(expected)
    kept = Journal(None) if journal is None else journal
    judge = Judge(endpoint, prompts, kept, budget, settings.answer_tokens)
    with folder_lock(atlas.folder, "label by a language model"):
        _work(judge, cases, random, settings, progress)
        rows = [table_row(case, endpoint.model) for case in cases]
        summary = summarise(judge, cases, random, settings, expected)
        summary["control"]["random_sae"]["given"] = random_sae is not None
        if judge_labels:
            merge_rows(atlas, JUDGED, [judgement(row, *given[row["latent"]]) for row in rows])
            summary |= {"method": "judge", "build": atlas.manifest["build"]}
            write_summary(atlas, JUDGED, summary)
            return summary
        n_labelled = save(atlas, rows, floor=settings.floor)
        summary |= {"build": atlas.manifest["build"], "n_labelled": n_labelled}
        write_atomic(Path(atlas.folder) / EXPLAINED, json.dumps(summary, indent=1) + "\n")
        return summary


def given_labels(atlas: Atlas, latents: Sequence[int]) -> dict[int, tuple[str, str]]:
    """The label of each latent that has a clear one, as the pages show it, and who gave it."""
    found = {latent: atlas.feature(latent) for latent in latents}
    return {
        latent: (f.label, f.label_method or "")
        for latent, f in found.items()
        if f.label and not f.label.startswith("unclear")
    }


def pick(atlas: Atlas, n: int, seed: int) -> list[int]:
    """n alive latents at random, so that their mean score speaks for all."""
    alive = sorted(row.latent for row in atlas.list("latent", False, limit=atlas.n_features))
    rng = np.random.default_rng([seed, 17])
    return sorted(int(i) for i in rng.permutation(alive)[:n])


def journal_path(folder: Path, endpoint: Endpoint) -> Path:
    """Where the answers of one model at one address are kept below a cache folder."""
    name = hashlib.sha256(f"{endpoint.url}\0{endpoint.model}".encode()).hexdigest()[:16]
    return folder / f"{name}.jsonl"


def _work(
    judge: Judge, cases: list[Case], random: list[Case], settings: Settings,
    progress: Progress | None,
) -> None:  # fmt: skip
    """Ask everything: explanations and exams first, then exams with shuffled explanations."""
    again = cases[: settings.n_control]
    total = sum(1 + case.exam.n_calls for case in (*cases, *random))
    total += sum(case.exam.n_calls for case in again)
    count = _Count(progress, total)
    try:
        first = (*cases, *random)
        in_parallel([partial(_examine, judge, case, count) for case in first], settings.concurrency)
        named = [case for case in cases if case.explanation]
        turned = dict(zip(map(id, named), named[1:] + named[:1], strict=True))
        todo = [case for case in again if case.explanation and len(named) > 1]
        in_parallel(
            [
                partial(_shuffled, judge, case, turned[id(case)].explanation or "", count)
                for case in todo
            ],
            settings.concurrency,
        )
    except BaseException:
        judge.endpoint.close()
        raise


def in_parallel(tasks: Sequence[Callable[[], None]], n: int) -> None:
    """Do all tasks on n threads; the first failure, or Ctrl-C, is raised at once.

    Threads that wait for an answer cannot be woken, and an executor would wait for them, as long as
    the slowest server likes. These are daemons: left alone, they end after the question at hand.
    """
    todo: SimpleQueue[Callable[[], None]] = SimpleQueue()
    done: SimpleQueue[BaseException | None] = SimpleQueue()
    stopped = threading.Event()
    for task in tasks:
        todo.put(task)

    def work() -> None:
        while not stopped.is_set():
            try:
                task = todo.get_nowait()
            except Empty:
                return
            try:
                task()
            except BaseException as exc:
                stopped.set()
                done.put(exc)
            else:
                done.put(None)

    for _ in range(min(n, len(tasks))):
        threading.Thread(target=work, daemon=True).start()
    try:
        for _ in tasks:
            problem = done.get()
            if problem is not None:
                raise problem
    finally:
        stopped.set()


def _examine(judge: Judge, case: Case, count: _Count) -> None:
    if not case.evidence.n:
        return count.add(1 + case.exam.n_calls)
    case.explanation = case.given or judge.explain(case.evidence.excerpts)
    count.add(1)
    if case.explanation is None:
        case.n_failed += 1
        return count.add(case.exam.n_calls)
    for prompt, batches in (("detect", case.exam.detect), ("fuzz", case.exam.fuzz)):
        case.judged += _answers(judge, case, prompt, case.explanation, batches, count)


def _shuffled(judge: Judge, case: Case, explanation: str, count: _Count) -> None:
    case.shuffled = _answers(judge, case, "detect", explanation, case.exam.detect, count)
    case.shuffled_fuzz = _answers(judge, case, "fuzz", explanation, case.exam.fuzz, count)


def _answers(
    judge: Judge, case: Case, prompt: str, explanation: str,
    batches: Sequence[Sequence[Item]], count: _Count,
) -> list[tuple[Item, float]]:  # fmt: skip
    out = []
    for batch in batches:
        found = judge.verdicts(prompt, explanation, batch)
        count.add(1)
        if found is None:
            case.n_failed += 1
        else:
            out += list(zip(batch, found, strict=True))
    return out


class _Count:
    """Questions done, told to whoever shows progress."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0
        self._lock = threading.Lock()

    def add(self, n: int) -> None:
        with self._lock:
            self.done += n
            if self.progress is not None:
                self.progress(self.done, self.total)
