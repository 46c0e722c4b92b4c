"""`label` with a language model at the command line: flags, mistakes, what is passed on."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from monoscope import cli
from monoscope.cli import methods
from monoscope.cli.explainer import parse_latents
from monoscope.errors import ConfigError

ASK = ["--explainer-url", "http://127.0.0.1:9/v1", "--explainer-model", "m"]


def run(capsys, *args):
    """Exit code, stdout, stderr of one `label`."""
    with pytest.raises(SystemExit) as left:
        cli.main(["label", "atlas", "sae", "--store", "store", *args])
    told = capsys.readouterr()
    return left.value.code, told.out, told.err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--n", "3"], "needs its address and its name: got --n"),
        (ASK[:2], "expected --explainer-url and --explainer-model"),
        ([*ASK, "--n", "3", "--latents", "1"], "--latents and --n"),
        ([*ASK, "--n", "0"], "--n is out of range"),
        ([*ASK, "--items", "1"], "n_items is out of range"),
        ([*ASK, "--max-cost", "1"], "--max-cost needs prices"),
        ([*ASK, "--price-in", "1"], "belong together"),
        ([*ASK, "--prompts", "nowhere"], "the folder of prompts holds none"),
        (ASK, "atlas is not an atlas"),
        (["--judge"], "needs its address and its name: got --judge"),
        (["--method", "ngram"], "no such method of labelling: got 'ngram'"),
        (["--method", "ngrams", "--n", "0"], "--n is out of range"),
        (["--method", "ngrams", "--n", "3", "--latents", "1"], "--latents and --n"),
        (["--method", "output", "--items", "3"], "needs its address and its name: got --items"),
        ([*ASK, "--method", "similarity"], "are two ways"),
        (["--method", "ngrams"], "atlas is not an atlas"),
    ],
)
def test_a_mistake_is_one_line(capsys, monkeypatch, tmp_path, args, said):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *args)
    assert (code, out) == (2, "") and err.count("\n") == 1 and said in err
    assert list(tmp_path.iterdir()) == []


def test_latents_are_numbers_and_ranges():
    assert parse_latents("3, 17,40-42") == [3, 17, 40, 41, 42]
    for bad in ("", "a", "1-", "1,,2", "-1", "9-3"):
        with pytest.raises(ConfigError, match="bad --latents"):
            parse_latents(bad)


@pytest.mark.parametrize(("k", "random_k"), [(3, 3), (None, 5)])
def test_flags_are_passed_on(capsys, monkeypatch, tmp_path, k, random_k):
    got = {}

    def explain(atlas, sae, store, endpoint, latents, *, progress, announce, **given):
        got.update(given, endpoint=endpoint, latents=latents)
        announce({"n_calls": 9, "prompt_tokens": 5, "completion_tokens": 4, "cost": 0.25})
        return {"n_latents": len(latents)}

    sae = SimpleNamespace(d_sae=8, config=SimpleNamespace(k=k))
    store = SimpleNamespace(norm_stats=SimpleNamespace(mean=torch.zeros(4)))
    atlas = SimpleNamespace(require=int, manifest={"l0": 4.6})
    monkeypatch.setattr("monoscope.features.explain.run.explain", explain)
    monkeypatch.setattr("monoscope.artifact.load_sae", lambda path: sae)
    monkeypatch.setattr("monoscope.cli.explainer.open_store", lambda path: store)
    monkeypatch.setattr("monoscope.features.atlas.load_atlas", lambda path: atlas)
    args = "--latents 4-5 --items 7 --price-in 1 --price-out 2 --max-cost 3 --concurrency 2"
    args += " --rate 60 --timeout 9 --controls 5 --answer-tokens 99 --seed 4"
    args += f" --cache {tmp_path} --dry-run --json"
    code, out, err = run(capsys, *ASK, *args.split())
    assert (code, json.loads(out)) == (0, {"n_latents": 2})
    assert err == "label: about 9 questions, 5 tokens in and 4 out; cost: about 0.25\n"
    assert got["latents"] == [4, 5] and got["dry_run"] is True
    settings, budget, endpoint = got["settings"], got["budget"], got["endpoint"]
    assert (settings.n_items, settings.concurrency, settings.seed) == (7, 2, 4)
    assert (settings.n_control, settings.answer_tokens) == (5, 99)
    assert (budget.prices.per_m_in, budget.prices.per_m_out, budget.max_cost) == (1, 2, 3)
    assert (endpoint.url, endpoint.timeout) == ("http://127.0.0.1:9/v1/chat/completions", 9)
    assert got["random_sae"].directions.shape == (8, 4) and got["random_sae"].k == random_k
    assert got["journal"].path.parent == tmp_path


@pytest.mark.parametrize("method", ["ngrams", "similarity", "output"])
def test_a_method_gets_its_latents_and_prints_its_summary(capsys, monkeypatch, method):
    got = {}

    def do(atlas, sae, store, latents, wanted, bar):
        got.update(latents=latents, wanted=wanted)
        return {"method": wanted.method, "n_latents": len(latents)}

    atlas = SimpleNamespace(require=int)
    monkeypatch.setattr("monoscope.artifact.load_sae", lambda path: None)
    monkeypatch.setattr("monoscope.cli.methods.open_store", lambda path: None)
    monkeypatch.setattr("monoscope.features.atlas.load_atlas", lambda path: atlas)
    monkeypatch.setitem(methods._DO, method, do)
    args = ["--method", method, "--latents", "4-6", "--model", "m", "--seed", "3", "--json"]
    code, out, _ = run(capsys, *args)
    assert (code, json.loads(out)) == (0, {"method": method, "n_latents": 3})
    assert got["latents"] == [4, 5, 6]
    assert (got["wanted"].model, got["wanted"].seed) == ("m", 3)
