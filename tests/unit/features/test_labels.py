"""Labels on a world whose latents follow known rules, checked against dense arithmetic."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score

from monoscope.artifact.checks import weights_hash
from monoscope.errors import DataError, FormatError, MismatchError
from monoscope.features.labels import Score, draw_sample, label, label_summary
from monoscope.features.rules import LABEL_WIDTH, AnyOf, Both, rule_from_json
from monoscope.ops.codes import SparseCodes

NAMES = [
    "paris or lyon", "spanish", "wine in french", "after united", "before states", "sparse noise",
    "dense noise", "rare", "dead", "gone when held out", "any case", "half of the bread", "digits",
    "loud on lyon",
]  # fmt: skip
WORDS = [
    " Paris", " Lyon", " wine", " United", " States", " bread", " cat", " CAT", "cat", " 12",
    *(f" word{i}" for i in range(40)),
]  # fmt: skip


@dataclass
class Doc:
    text: str
    ends: list[int]
    meta: dict[str, str]


@dataclass
class Shard:
    acts: torch.Tensor
    doc: torch.Tensor
    pos: torch.Tensor
    split: str

    @property
    def n_tokens(self) -> int:
        return len(self.doc)


class World:
    """A store whose activations are the codes themselves, and the SAE that reads them off."""

    site, d_in = "resid_post.1", len(NAMES)

    def __init__(self, n_docs: int = 120, length: int = 60, held_out: bool = True) -> None:
        rng = np.random.default_rng(5)
        self.docs: dict[int, Doc] = {}
        self.all_shards: list[Shard] = []
        groups = np.array_split(np.arange(n_docs), 6)
        for group, ids in enumerate(groups):
            split = "held_out" if group % 3 == 2 and held_out else "train"
            acts, doc, pos = [], [], []
            for i in ids.tolist():
                words = rng.choice(WORDS, length).tolist()
                meta = {"lang": ["en", "es", "fr"][i % 3], "title": f"document {i}"}
                meta["licence"] = meta["lang"] + "-licence"
                ends = np.cumsum([len(w) for w in words]).tolist()
                self.docs[i] = Doc("".join(words), ends, meta)
                acts.append(self.codes(words, meta["lang"], split, rng)[1:])  # first token masked
                doc += [i] * (length - 1)
                pos += range(1, length)
            self.all_shards.append(
                Shard(
                    torch.from_numpy(np.concatenate(acts)),
                    torch.tensor(doc),
                    torch.tensor(pos),
                    split,
                )
            )
        self.config = SimpleNamespace(d_in=self.d_in, d_sae=len(NAMES))
        self.W_enc = self.W_dec = torch.eye(self.d_in)
        self.b_enc = self.b_dec = torch.zeros(self.d_in)
        self.threshold, self.identity = None, {"model": "toy"}
        self.provenance = {"site": self.site, "model": {"model": "toy"}}

    def codes(self, words: list[str], lang: str, split: str, rng: Any) -> np.ndarray:
        n = len(words)
        at, before, after = np.array(words), np.array(["", *words[:-1]]), np.array([*words[1:], ""])
        fires = np.zeros((n, len(NAMES)), dtype=bool)
        fires[:, 0] = np.isin(at, [" Paris", " Lyon"])
        fires[:, 1] = lang == "es"
        fires[:, 2] = (at == " wine") & (lang == "fr")
        fires[:, 3] = before == " United"
        fires[:, 4] = after == " States"
        fires[:, 5] = rng.random(n) < 0.02
        fires[:, 6] = rng.random(n) < 0.7
        fires[:, 7] = (at == " wine") & (rng.random(n) < 0.04)
        fires[:, 9] = (at == " bread") & (split == "train")
        fires[:, 10] = np.isin(at, [" cat", " CAT", "cat"])
        fires[:, 11] = (at == " bread") & (rng.random(n) < 0.5)
        fires[:, 12] = at == " 12"
        fires[:, 13] = np.isin(at, [" Lyon", " wine", " bread"])
        strength = rng.uniform(0.1, 3, fires.shape)
        strength[:, 13] = np.where(at == " Lyon", 10.0, 0.1)
        return (fires * strength).astype(np.float32)

    def shards(self, split: str) -> list[Shard]:
        return [shard for shard in self.all_shards if shard.split == split]

    def read(self, shard: Shard) -> Shard:
        return shard

    def get_documents(self, ids: list[int]) -> dict[int, Doc]:
        return {i: self.docs[i] for i in ids}

    def encode(self, x: torch.Tensor) -> SparseCodes:
        return SparseCodes.from_dense(x)


class Atlas:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = {"sae": {"hash": weights_hash(World(n_docs=6, length=3))}, "build": "x"}
        self.n_features = len(NAMES)
        self.rows: list[dict[str, Any]] = []

    def set_labels(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def require(self, latent: int) -> int:
        return latent


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def labelled(world: World, tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    atlas = Atlas(tmp_path_factory.mktemp("atlas"))
    assert label(atlas, world, world, seed=1) is atlas
    return atlas


def rule_of(row: dict[str, Any]) -> Any:
    return None if row["label_rule"] is None else rule_from_json(json.loads(row["label_rule"]))


def row(atlas: Atlas, name: str) -> dict[str, Any]:
    return atlas.rows[NAMES.index(name)]


def test_planted_rules_are_found_and_read_well(labelled: Atlas) -> None:
    for name, rules in {
        "paris or lyon": [AnyOf("token", (" Paris", " Lyon")), AnyOf("token", (" Lyon", " Paris"))],
        "spanish": [AnyOf("meta:lang", ("es",))],
        "wine in french": [Both(AnyOf("token", (" wine",)), AnyOf("meta:lang", ("fr",)))],
        "after united": [AnyOf("previous", (" United",))],
        "before states": [AnyOf("next", (" States",))],
        "any case": [AnyOf("word", ("cat",))],  # one value where spelling it out takes three
    }.items():
        got = row(labelled, name)
        assert rule_of(got) in rules, (name, got)
        assert got["label_f1"] == 1.0 and got["label_auc"] == 1.0
    assert row(labelled, "spanish")["label"] == "lang=es"
    assert row(labelled, "wine in french")["label"] == '" wine" · lang=fr'
    assert row(labelled, "after united")["label"] == 'after " United"'
    assert row(labelled, "digits")["label"] in ('" 12"', "digits")


def test_every_score_equals_dense_arithmetic(world: World, labelled: Atlas) -> None:
    held = draw_sample(world, world, "held_out", 10**9, seed=1)
    codes = torch.cat([s.acts for s in world.shards("held_out")]).numpy()
    doc = torch.cat([s.doc for s in world.shards("held_out")]).numpy()
    codes = codes[np.argsort(doc, kind="stable")]
    order = np.argsort(held.doc, kind="stable")
    checked = 0
    for i, got in enumerate(labelled.rows):
        if got["label_f1"] is None:
            continue
        truth, said = codes[:, i] > 0, rule_of(got).fires(held.table)[order]
        detail = json.loads(got["label_rule"])["held_out"]
        assert got["label_f1"] == pytest.approx(f1_score(truth, said), abs=1e-12)
        assert got["label_auc"] == pytest.approx(roc_auc_score(truth, said), abs=1e-12)
        assert got["label_base"] == pytest.approx(truth.mean(), abs=1e-12)
        assert detail["precision"] == pytest.approx(precision_score(truth, said, zero_division=0))
        assert detail["recall"] == pytest.approx(recall_score(truth, said))
        assert (detail["n_fired"], detail["n_tokens"]) == (truth.sum(), len(truth))
        assert detail["n_rule"] == said.sum()
        mass = codes[said, i].sum() / codes[:, i].sum()
        assert detail["mass"] == pytest.approx(mass, abs=1e-6)
        checked += 1
    assert checked >= 10
    assert 0.5 < row(labelled, "half of the bread")["label_f1"] < 0.85  # F1 of p = ½ is ⅔


def test_a_label_speaks_of_strong_firings(labelled: Atlas) -> None:
    got = row(labelled, "loud on lyon")
    assert got["label"] == '" Lyon"'
    detail = json.loads(got["label_rule"])["held_out"]
    assert detail["mass"] > 0.95 and detail["precision"] == 1.0
    assert detail["recall"] < 0.5 and got["label_f1"] < 0.6  # the score counts the faint ones too


def test_noise_is_called_unclear(labelled: Atlas) -> None:
    for name in ("sparse noise", "dense noise"):
        got = row(labelled, name)
        assert got["label"].startswith('unclear · best guess "'), got
        assert abs(got["label_auc"] - 0.5) < 0.1
        assert rule_of(got).field == "token"
    assert row(labelled, "sparse noise")["label_f1"] < 0.2


def test_too_few_firings_give_no_score(labelled: Atlas) -> None:
    assert row(labelled, "rare")["label"] == "unclear · too rare in the sample"
    for name in ("rare", "dead", "gone when held out"):
        got = row(labelled, name)
        assert got["label_f1"] is None and got["label_auc"] is None
    assert row(labelled, "dead")["label"] is None and row(labelled, "dead")["label_method"] is None
    gone = row(labelled, "gone when held out")
    assert gone["label"] == '" bread"'
    assert json.loads(gone["label_rule"])["held_out"] == {"n_fired": 0}


def test_titles_never_become_rules_and_labels_are_short(world: World, labelled: Atlas) -> None:
    columns = draw_sample(world, world, "train", 1000).table.columns
    assert [name for name in columns if name.startswith("meta:")] == ["meta:lang"]
    for got in labelled.rows:
        assert "title" not in (got["label_rule"] or "")
        assert len(got["label"] or "") <= LABEL_WIDTH
    assert {frozenset(got) for got in labelled.rows} == {
        frozenset(
            ["latent", "label", "label_rule", "label_method", "label_f1", "label_auc", "label_base"]
        )
    }
    assert [got["latent"] for got in labelled.rows] == list(range(len(NAMES)))


def test_the_summary_beats_its_control(labelled: Atlas) -> None:
    summary = label_summary(labelled.folder)
    assert summary["n_alive"] == len(NAMES) - 1
    assert summary["n_scored"] == sum(r["label_f1"] is not None for r in labelled.rows)
    scores = [r["label_f1"] for r in labelled.rows if r["label_f1"] is not None]
    assert summary["median_f1"] == pytest.approx(float(np.median(scores)))
    high = sum(r["label_auc"] is not None and r["label_auc"] >= 0.9 for r in labelled.rows)
    assert summary["share_auc_0.9"] == pytest.approx(high / (len(NAMES) - 1))
    assert summary["median_f1"] > 0.9 > 0.3 > summary["control"]["median_f1"]
    assert abs(summary["control"]["median_auc"] - 0.5) < 0.1


def test_the_seed_decides_everything(world: World, labelled: Atlas, tmp_path: Path) -> None:
    again = Atlas(tmp_path)
    label(again, world, world, seed=1)
    assert again.rows == labelled.rows


def test_a_sample_is_whole_documents_of_its_split(world: World) -> None:
    sample = draw_sample(world, world, "train", 1200, seed=3)
    assert 1200 <= sample.table.n_tokens <= 1200 + 4 * 59  # a document over, per shard
    ids, lengths = np.unique(sample.doc, return_counts=True)
    assert set(lengths.tolist()) == {59}
    held = {int(d) for s in world.shards("held_out") for d in s.doc}
    assert not held & set(ids.tolist())
    shards = {next(k for k, s in enumerate(world.all_shards) if i in s.doc) for i in ids}
    assert len(shards) == 4  # spread over every shard of the split
    codes = torch.cat([s.acts for s in world.shards("train")]).numpy()
    doc = torch.cat([s.doc for s in world.shards("train")]).numpy()
    expected = (codes[np.isin(doc, ids)] > 0).sum(0)
    assert sample.firings.totals.tolist() == expected.tolist()


def test_without_held_out_documents_no_label_has_a_score(tmp_path: Path) -> None:
    world, atlas = World(n_docs=12, held_out=False), Atlas(tmp_path)
    label(atlas, world, world)
    assert row(atlas, "paris or lyon")["label"] in ('" Paris" · " Lyon"', '" Lyon" · " Paris"')
    assert all(r["label_f1"] is None and r["label_base"] is None for r in atlas.rows)
    summary = label_summary(tmp_path)
    assert summary["median_f1"] is None and summary["control"]["median_f1"] is None


@pytest.mark.parametrize("asked", [(500, 300), (10**9, 10**9)])
def test_progress_counts_up_to_the_whole(
    world: World, tmp_path: Path, asked: tuple[int, int]
) -> None:
    seen: list[tuple[int, int]] = []
    label(
        Atlas(tmp_path), world, world, n_tokens=asked[0], n_held_out=asked[1],
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    total = min(sum(asked), sum(shard.n_tokens for shard in world.all_shards))
    assert [t for _, t in seen] == [total] * len(seen)
    assert [d for d, _ in seen] == sorted(d for d, _ in seen) and seen[-1][0] == total


def test_a_perfect_and_a_blind_rule() -> None:
    assert Score.from_counts(5, 5, 5, 100, mass=1).auc == 1.0
    assert Score.from_counts(0, 0, 5, 100, mass=0).auc == 0.5
    assert Score.from_counts(2, 21, 5, 100, mass=0).specificity == pytest.approx(1 - 19 / 95)
    blind = Score(5, 100, 100, 0.05, 1.0, 10 / 105, 0.5, 1.0, specificity=0.0)
    assert Score.from_counts(5, 100, 5, 100, mass=1.0) == blind


def test_parts_that_do_not_belong_together(world: World, tmp_path: Path) -> None:
    other = World(n_docs=6, length=3)
    other.b_enc = torch.ones(world.d_in)
    with pytest.raises(MismatchError, match="another SAE: got weights"):
        label(Atlas(tmp_path), other, world)
    other = World(n_docs=6, length=3)
    other.provenance = {"site": "resid_post.2"}
    with pytest.raises(MismatchError, match="different sites"):
        label(Atlas(tmp_path), other, world)
    assert not list(tmp_path.iterdir())


def test_an_empty_store_and_a_missing_or_broken_summary(tmp_path: Path) -> None:
    world = World(n_docs=12)
    world.all_shards = []
    with pytest.raises(DataError, match="train split is empty"):
        label(Atlas(tmp_path), world, world)
    with pytest.raises(FormatError, match="no labels yet"):
        label_summary(tmp_path)
    (tmp_path / "labels.json").write_text("{oops")
    with pytest.raises(FormatError, match="damaged"):
        label_summary(tmp_path)
