"""Around the stages: true times after a kill, credit to what was used, one demo in a folder."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from monoscope.demo import stages
from monoscope.demo.clock import Clock
from monoscope.demo.report import time_rows
from monoscope.errors import OutputError
from monoscope.locks import folder_lock


class Time:
    at = 0.0

    def __call__(self) -> float:
        return self.at


def job(folder, now):
    return stages._Job(folder, Clock(folder, now), seed=0)


def test_a_stage_reused_after_a_kill_shows_the_time_that_it_took(tmp_path, capsys):
    now = Time()
    first = job(tmp_path, now)
    with first.stage("train", "train 8 latents"):
        now.at += 130.0
    again = job(tmp_path, now)  # the first was killed before it wrote any summary
    with again.stage("train", "train 8 latents", True):
        now.at += 0.1
    assert again.seconds == {"train": 130.0} and again.reused == ["train"]
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == ["train 8 latents: 130.0 s", "train 8 latents: reused"]


def test_a_stage_that_no_demo_timed_has_no_time(tmp_path):
    made = job(tmp_path, Time())
    with made.stage("collect", "collect", True):
        pass
    with made.stage("index", "index"):
        made.clock._now.at += 2.0
    summary = {"seconds": made.seconds, "reused": made.reused}
    assert time_rows(summary) == [
        ("collect", "–", "not timed; made by an earlier run"),
        ("index", "2.0 s", ""),
        ("in all", "2.0 s", "without what was not timed"),
    ]


def test_credit_goes_to_what_was_used():
    store = SimpleNamespace(manifest=SimpleNamespace(attribution=["My texts: mine"]))

    def lm(name):
        return SimpleNamespace(identity={"model": name})

    assert stages.credits_of(lm("org/model"), store) == [
        "org/model: language model, under the licence that its makers give it",
        "My texts: mine",
    ]
    embedded = stages.credits_of(lm("demo"), store)
    assert len(embedded) == 2 and embedded[0].startswith("SmolLM2-135M-Instruct: ")
    assert "Apache-2.0" in embedded[0]


def test_two_demos_do_not_write_to_one_folder(tmp_path):
    with folder_lock(tmp_path, "demo"), pytest.raises(OutputError, match="another process"):
        stages.run_demo(tmp_path)


def test_without_a_writer_steer_has_the_keys_of_its_verb(tmp_path, monkeypatch):
    nothing = {"n_candidates": 0, "writer": None, "samples": []}
    monkeypatch.setattr(stages, "steer_sample", lambda *args, **kwargs: nothing)
    monkeypatch.setattr(stages, "weights_hash", lambda sae: "x")
    made = job(tmp_path, Time())
    made.steer(None, None, SimpleNamespace(manifest={"build": "b"}), None)
    keys = ("default", "steered", "edits", "relative_norm", "kl")
    assert {key: made.figures["steer"][key] for key in keys} == dict.fromkeys(keys)
    assert made.figures["steer"].items() >= nothing.items()
    assert json.loads((tmp_path / "steer.json").read_text())["figures"] == nothing
