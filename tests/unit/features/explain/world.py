"""A store and SAE whose latents each fire on one word, and a judge who may know or not."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from monoscope.features.atlas import Atlas
from monoscope.features.index import index
from monoscope.sae import SAE, SAEConfig
from tests.unit.features.atlas_world import IDENTITY, Doc

NAMED = ["paris", "wine", "river", "seven"]  # latent i fires on NAMED[i], more on capitals
FILLER = [f"word{i}" for i in range(30)]
D = len(NAMED) + 2  # latent 4 fires where "paris" or "wine" does, faintly; latent 5 never
DEAD = D - 1


@dataclass
class Shard:
    acts: torch.Tensor
    doc: torch.Tensor
    pos: torch.Tensor
    split: str

    @property
    def n_tokens(self) -> int:
        return len(self.doc)


class WordStore:
    """As data.store.ActivationStore: the first token of every document is masked."""

    site, d_in, path = "resid_post.1", D, "a made-up store"

    def __init__(self, n_docs: int = 60, length: int = 65, seed: int = 3) -> None:
        rng = np.random.default_rng(seed)
        self.docs: dict[int, Doc] = {}
        self.all_shards: list[Shard] = []
        self.identity = dict(IDENTITY)
        self.mask_policy = SimpleNamespace(to_dict=lambda: {"special_ids": [0], "max_norm": 9.0})
        self.norm_stats = SimpleNamespace(mean_norm=2.0, median_norm=1.5)
        self.manifest = SimpleNamespace(
            corpus={"name": "words"}, corpus_fingerprint="f" * 64, attribution=["nobody"]
        )
        for group, ids in enumerate(np.array_split(np.arange(n_docs), 6)):
            split = "held_out" if group % 2 else "train"
            self.all_shards.append(self._shard(ids.tolist(), split, length, rng))

    def _shard(self, ids: list[int], split: str, length: int, rng: Any) -> Shard:
        acts, doc, pos = [], [], []
        for i in ids:
            rare = rng.random(length) < 0.05
            words = np.where(rare, rng.choice(NAMED, length), rng.choice(FILLER, length)).tolist()
            pieces = [f" {word}" for word in words]
            ends = np.cumsum([len(piece) for piece in pieces]).tolist()
            self.docs[i] = Doc(i, split, "".join(pieces), [1] * length, ends, {"lang": "en"})
            acts.append(self._acts(words, rng)[1:])
            doc += [i] * (length - 1)
            pos += range(1, length)
        return Shard(
            torch.from_numpy(np.concatenate(acts)), torch.tensor(doc),
            torch.tensor(pos, dtype=torch.int32), split,
        )  # fmt: skip

    def _acts(self, words: list[str], rng: Any) -> np.ndarray:
        x = np.zeros((len(words), D), np.float32)
        for i, name in enumerate(NAMED):
            x[:, i] = np.array([word == name for word in words]) * rng.uniform(1, 3, len(words))
        x[:, len(NAMED)] = 0.1 * (x[:, 0] + x[:, 1])
        return x

    def n_tokens(self, split: str | None = None) -> int:
        return sum(s.n_tokens for s in self.shards(split))

    def shards(self, split: str | None = None) -> list[Any]:
        return [s for s in self.all_shards if split in (None, s.split)]

    def read(self, shard: Shard) -> Shard:
        return shard

    def get_documents(self, ids: Any) -> dict[int, Doc]:
        return {int(i): self.docs[int(i)] for i in ids}


def word_sae() -> SAE:
    """Reads the activations off as they are."""
    sae = SAE(SAEConfig(d_in=D, d_sae=D, activation="relu", k=None))
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(D))
        sae.W_dec.copy_(torch.eye(D))
    sae.provenance = {"site": "resid_post.1", "model": dict(IDENTITY)}
    return sae


def word_atlas(store: WordStore, folder: Path) -> Atlas:
    """Its atlas."""
    return index(word_sae(), store, None, folder)


EXCERPT = re.compile(r"^\d+\. (?:strength \d+: )?(\".*\")$", re.MULTILINE)
Verdict = Callable[[bool, str], int]


@dataclass
class Script:
    """A server's behaviour: answers as an honest reader would, unless told otherwise.

    verdict: given the truth about an excerpt and its text, what the judge says. logprobs: whether
    to tell P(1), and as what. disturb: called before each answer with its number (from 0); may
    give (status, headers, body) in its place.
    """

    verdict: Verdict = lambda truth, text: int(truth)
    p_yes: Callable[[int, str], float] | None = None
    usage: bool = True
    disturb: Callable[[int, dict[str, Any]], tuple[int, dict[str, str], bytes] | None] | None = None
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)

    def explanation(self, excerpts: list[str]) -> str:
        """The commonest marked word."""
        marked = re.findall(r"<<\s*(\w+)", " ".join(excerpts))
        return f"the word {max(sorted(set(marked)), key=marked.count)}"

    def content(self, body: dict[str, Any]) -> str:
        system, user = body["messages"][0]["content"], body["messages"][1]["content"]
        excerpts = [json.loads(found) for found in EXCERPT.findall(user)]
        if "explanation" in system.splitlines()[-1]:
            return json.dumps({"explanation": self.explanation(excerpts)})
        word = re.search(r"^Explanation: the word (\w+)", user, re.MULTILINE)[1]
        fits = [self.fits(word, text) for text in excerpts]
        said = [self.verdict(fit, text) for fit, text in zip(fits, excerpts, strict=True)]
        return json.dumps({"answers": said})

    def fits(self, word: str, text: str) -> bool:
        if "<<" not in text:
            return word in text.split()
        marked = re.findall(r"<<\s*([^>]*)>>", text)
        return all(set(found.split()) == {word} for found in marked)

    def reply(self, body: dict[str, Any]) -> dict[str, Any]:
        text = self.content(body)
        choice: dict[str, Any] = {
            "index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text},
        }  # fmt: skip
        if self.p_yes is not None and body.get("logprobs"):
            tokens = re.findall(r"\d|[^\d]+", text)
            choice["logprobs"] = {"content": [self.token(t) for t in tokens]}
        told: dict[str, Any] = {"choices": [choice]}
        if self.usage:
            told["usage"] = {"prompt_tokens": 100, "completion_tokens": 10}
        return told

    def token(self, text: str) -> dict[str, Any]:
        if text not in ("0", "1"):
            return {"token": text, "logprob": 0.0, "top_logprobs": []}
        p = self.p_yes(int(text), text)
        tops = [{"token": d, "logprob": float(np.log(q))} for d, q in (("1", p), ("0", 1 - p))]
        own = next(t for t in tops if t["token"] == text)
        return {**own, "top_logprobs": tops}


def coin(truth: bool, text: str) -> int:
    """A judge who tosses: the same text always falls the same way."""
    return hashlib.sha256(text.encode()).digest()[0] & 1


@contextmanager
def serving(script: Script) -> Iterator[str]:
    """The base URL of a server that follows the script."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with script.lock:
                number = len(script.bodies)
                script.bodies.append(body)
                script.headers.append({k.lower(): v for k, v in self.headers.items()})
            odd = script.disturb(number, body) if script.disturb else None
            if odd is None:
                data = json.dumps(script.reply(body)).encode()
                odd = (200, {"Content-Type": "application/json"}, data)
            status, headers, data = odd
            try:
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(data))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)
            except OSError:  # the client has left
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
