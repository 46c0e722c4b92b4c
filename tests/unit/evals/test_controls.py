"""Stability, the random-weights control, a recipe on a world, and the probing tasks as shipped."""

from __future__ import annotations

import dataclasses
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from monoscope.errors import ConfigError
from monoscope.evals import (
    ablation,
    letters,
    probe_tasks,
    random_model,
    recovery,
    stability,
    worlds,
)
from monoscope.evals.material import Material, Sizes, mean_l0
from monoscope.lm.random import with_random_weights
from monoscope.sae import SAE, SAEConfig


def make_sae(rows: torch.Tensor, recipe: str | None = "topk") -> SAE:
    sae = SAE(SAEConfig(d_in=rows.shape[1], d_sae=len(rows), activation="topk", k=3))
    sae.W_enc.data = sae.W_dec.data = rows
    sae.provenance = {} if recipe is None else {"recipe": recipe}
    return sae


def test_the_same_latents_in_another_order_are_found_again():
    rows = torch.randn(40, 12, generator=torch.Generator().manual_seed(0))
    again = rows[torch.randperm(40, generator=torch.Generator().manual_seed(1))] * 2
    found = stability.compare(rows, again)
    assert found["cosine"] == pytest.approx(1, abs=1e-6) and found["found"] == 1
    other = torch.randn(40, 12, generator=torch.Generator().manual_seed(2))
    chance = stability.compare(rows, other)
    assert 0.3 < chance["cosine"] < 0.8 and chance["found"] < 0.5
    assert chance["nearest_cosine"] >= chance["cosine"]


def test_dead_rows_take_no_part_and_a_wide_sae_is_not_matched_one_to_one(monkeypatch):
    rows = F.normalize(torch.randn(8, 5, generator=torch.Generator().manual_seed(0)), dim=1)
    padded = torch.cat([rows, torch.zeros(4, 5)])
    assert stability.compare(rows, padded)["cosine"] == pytest.approx(1, abs=1e-6)
    monkeypatch.setattr(stability.matching, "EXACT_UP_TO", 5)
    wide = stability.compare(rows, rows)
    assert wide["cosine"] is None and wide["nearest_cosine"] == pytest.approx(1, abs=1e-6)


def test_stability_trains_the_recipe_under_other_seeds_or_takes_given_ones(make):
    rows = torch.randn(10, 6, generator=torch.Generator().manual_seed(0))
    calls = []

    def train(sae, source, **settings):
        calls.append(settings | {"sae": sae})
        noise = torch.randn(10, 6, generator=torch.Generator().manual_seed(settings["seed"]))
        return SimpleNamespace(sae=make_sae(rows + 0.01 * noise))

    store = make.store({"train": [torch.eye(6)], "held_out": []})
    material = Material(
        sae=make_sae(rows), store=store, train=train, sizes=Sizes(n_seeds=3, train_tokens=7)
    )
    found = stability.run(material)
    assert [c["seed"] for c in calls] == [1000, 1001, 1002]
    assert all(c["sae"] is material.sae and c["n_tokens"] == 7 for c in calls)
    l0s = [float(material.sae.encode(torch.eye(6)).l0.float().mean())] * 3
    assert [found["l0"]] * 3 == pytest.approx(l0s)
    assert found["l0_of_others"] == pytest.approx(l0s, abs=0.5)
    assert found["between_seeds"]["n_pairs"] == 3 and found["between_seeds"]["found"] == 1
    assert found["given_against_them"]["cosine"] > 0.99 > found["chance"]["cosine"]
    given = stability.run(dataclasses.replace(material, others=(make_sae(rows),)))
    assert len(calls) == 3 and given["given_against_them"]["cosine"] == pytest.approx(1, abs=1e-6)
    assert given["between_seeds"]["cosine"] is None
    assert "skipped" in stability.run(dataclasses.replace(material, train=None))


@pytest.mark.slow
def test_the_recipe_recovers_a_world_far_beyond_chance(make):
    from monoscope.train import alike

    sizes = Sizes(world_samples=60_000)
    store = make.store({"train": [torch.eye(6)], "held_out": []})
    sae = make_sae(torch.eye(6), recipe="topk")
    found = recovery._world(Material(sae=sae, store=store, train=alike, sizes=sizes), "superposed")
    assert 0.25 < found["chance_mcc"] < 0.5
    assert found["sae"]["mcc"] > found["chance_mcc"] + 0.15
    assert found["sae"]["f1"] > max(found[b]["f1"] for b in ("random", "neurons", "pca"))
    assert found["l0"] == pytest.approx(worlds.make("superposed", 0).l0)


def test_without_a_trainer_the_families_that_need_one_say_so():
    material = Material(sae=make_sae(torch.eye(6), None), store=SimpleNamespace(d_in=6))
    for family in (recovery, stability, random_model):
        assert "trainer" in family.run(material)["skipped"]


def test_random_weights_keep_the_shape_and_forget_the_rest():
    config = LlamaConfig(
        vocab_size=20, hidden_size=8, intermediate_size=12, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    hf = SimpleNamespace(
        model=model, tokens=SimpleNamespace(hf=None), name="m", device=model.device,
        dtype=torch.float32,
    )  # fmt: skip
    made = []

    class Wrapped:
        def __init__(self, model, tokenizer, name):
            self.model, self.name = model, name
            made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("monoscope.lm.random.HFModel", Wrapped)
        state = torch.get_rng_state()
        a, b, c = (with_random_weights(hf, seed) for seed in (0, 0, 1))
        assert torch.equal(torch.get_rng_state(), state)
    weights = [w.model.model.layers[0].mlp.up_proj.weight for w in (a, b, c)]
    assert weights[0].shape == model.model.layers[0].mlp.up_proj.weight.shape
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], model.model.layers[0].mlp.up_proj.weight)
    assert "random weights" in a.name


# ------------------------------------------------------------------ the tasks as they are shipped


@pytest.mark.slow
def test_the_chosen_tasks_are_balanced_and_their_halves_share_no_text():
    names = probe_tasks.available()
    assert len(probe_tasks.CPU_TASKS) >= 30 and set(probe_tasks.CPU_TASKS) <= set(names)
    assert not set(probe_tasks.SKIPPED) & set(names) and len(names) >= 100
    for name in probe_tasks.CPU_TASKS:
        task = probe_tasks.load_task(name, 200, 0)
        assert len(task.texts) == len(set(task.texts)) == len(task.labels) <= 200
        assert not set(task.train) & set(task.test)
        for part in (task.train, task.test):
            assert task.labels[part].mean() == 0.5 and len(part) >= 50
    again = probe_tasks.load_task("96_spam_is", 200, 0)
    assert again.texts == probe_tasks.load_task("96_spam_is", 200, 0).texts
    assert again.texts != probe_tasks.load_task("96_spam_is", 200, 1).texts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "label", "pattern", "low", "high"),
    [
        ("100_news_fake", "1", r"\(Reuters\)", 0.97, 1.0),
        ("100_news_fake", "0", r"\(Reuters\)", 0.0, 0.01),
        ("146_disease_class_cardiovascular diseases", "1", r"carcinoma|tumou?r|cancer|lymphoma|leuk|melanoma|neoplas", 0.8, 1.0),  # noqa: E501
        ("146_disease_class_cardiovascular diseases", "1", r"coronary|myocard|cardiac|heart|aort|arteri|ventric", 0.0, 0.1),  # noqa: E501
        ("161_agnews_0", "0", r"[{};]\s*\n|^import |#include|def |</", 0.95, 1.0),
        ("163_agnews_2", "0", r"[{};]\s*\n|^import |#include|def |</", 0.95, 1.0),
        ("49_cm_isshort", "False", r"AITA|WIBTA", 0.99, 1.0),
        ("140_news_class_Technology", "1", r"\b(shares|profit|stocks?|oil|quarter|billion|earnings)\b", 0.3, 1.0),  # noqa: E501
        ("142_cancer_cat_Thyroid_Cancer", "1", "thyroid", 0.0, 0.45),
    ],
)  # fmt: skip
def test_what_is_said_of_the_skipped_tasks_is_so(name, label, pattern, low, high):
    assert name in probe_tasks.SKIPPED
    texts = [text for text, held in probe_tasks._rows(name) if held == label]
    share = np.mean([bool(re.search(pattern, text, re.IGNORECASE)) for text in texts])
    assert low <= share <= high


def test_a_task_that_is_left_out_or_unknown_is_refused():
    with pytest.raises(ConfigError, match=r"left out: got '100_news_fake'.*real news"):
        probe_tasks.load_task("100_news_fake", 10, 0)
    with pytest.raises(ConfigError, match=r"no such probing task.*Did you mean 96_spam_is"):
        probe_tasks.load_task("96_spam", 10, 0)
    with pytest.raises(ConfigError, match="not a binary task"):
        probe_tasks.load_task("13_us_state", 10, 0)


# ------------------------------------------------------------------ trained alike, at one L0


@pytest.fixture(scope="module")
def x():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(1500, 10, generator=generator) @ torch.randn(10, 10, generator=generator)


@pytest.mark.parametrize("recipe", ["batchtopk", "jumprelu", "bricken", "gated"])
@pytest.mark.parametrize("l0", [2.0, 7.5])
def test_a_threshold_is_moved_until_l0_is_what_was_asked(x, recipe, l0):
    from monoscope.train import train

    kind = {"k": 4} if recipe == "batchtopk" else {"target_l0": 4}
    sae = train(x, d_sae=40, recipe=recipe, n_tokens=30_000, batch_size=128, **kind).sae
    tiles = list(x.split(700))
    before, latents = mean_l0(sae, tiles), sae.encode(x).to_dense()
    random_model.bring_to_l0(sae, tiles, l0)
    after = sae.encode(x).to_dense()
    assert abs(before - l0) > 0.3
    at_most = before if recipe in ("bricken", "gated") else l0  # what is not positive cannot fire
    assert mean_l0(sae, tiles) == pytest.approx(min(l0, at_most), abs=2 / len(x))
    few, many = (latents, after) if before < l0 else (after, latents)  # one threshold, moved
    assert ((few != 0) <= (many != 0)).all()


def test_a_world_is_trained_with_the_settings_that_were_recorded_at_its_own_l0(x, make):
    from monoscope.train import alike, train

    sae = train(
        x, d_sae=40, recipe="jumprelu", target_l0=9, n_tokens=4096, batch_size=128,
        settings={"bandwidth": 0.25, "normalisation": "standardize"},
    ).sae  # fmt: skip
    made = []

    def watched(*args, **changes):
        made.append(alike(*args, **changes))
        return made[-1]

    material = Material(
        sae=sae, store=make.store({"train": [x], "held_out": []}), train=watched,
        sizes=Sizes(world_samples=20_000),
    )  # fmt: skip
    found = recovery._world(material, "superposed")
    told = made[0].sae.provenance["config"]["train"]
    assert told["target_l0"] == pytest.approx(found["l0"])
    assert told["bandwidth"] == 0.25 and told["normalisation"] == "standardize"
    assert found["sae"]["l0"] == pytest.approx(found["l0"], rel=0.5)


def test_another_configuration_is_another_cached_part(x, make):
    sae = make_sae(torch.eye(6))
    store = make.store({"train": [torch.eye(6)], "held_out": []})
    store.manifest.shards = []
    keys = []
    for target in (3, 4):
        sae.provenance = {"recipe": "topk", "config": {"train": {"target_l0": target}}}
        keys.append(Material(sae=sae, store=store).key("worlds", 1))
    assert keys[0] != keys[1]


def test_what_cannot_be_trained_alike_says_why(make):
    store = make.store({"train": [torch.eye(6)], "held_out": []})
    unknown = Material(sae=make_sae(torch.eye(6), "gpt"), store=store, train=print)
    for family in (recovery, stability, random_model):
        assert "'gpt' is none of monoscope's" in family.run(unknown)["skipped"]
    narrow = Material(sae=make_sae(torch.eye(6), "autoencoder"), store=store, train=print)
    assert "fewer latents" in recovery.run(narrow)["skipped"]
    deep = SAE(SAEConfig(d_in=6, d_sae=4, activation="relu", k=None, hidden=(5,)))
    deep.provenance = {"recipe": "autoencoder"}
    for family in (recovery, stability, letters, ablation):
        material = Material(sae=deep, store=store, train=print)
        assert "no directions" in family.run(material)["skipped"]
