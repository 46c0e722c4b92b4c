"""The clock of the demo: what a stage took stands after kills, reuse and removal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from monoscope.demo import clock as clock_module
from monoscope.demo.clock import SECONDS, Clock
from monoscope.errors import FormatError


class Time:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.at = 50.0

    def __call__(self) -> float:
        return self.at


def work(folder, stage, seconds, *, dies=False):
    """One run that works on a stage, and may be broken off before the stage is done."""
    now = Time()
    clock = Clock(folder, now)
    try:
        with clock.time(stage):
            now.at += seconds
            if dies:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    return clock


def test_a_stage_found_finished_keeps_the_seconds_that_it_took(tmp_path):
    work(tmp_path, "train", 127.5)
    again = Clock(tmp_path)
    again.reuse("train")
    assert again.spent("train") == 127.5
    assert again.spent("collect") is None


def test_runs_that_were_broken_off_add_up(tmp_path):
    for part in (100.0, 20.0):
        work(tmp_path, "collect", part, dies=True)
    assert work(tmp_path, "collect", 3.25).spent("collect") == 123.25


def test_a_stage_begun_anew_starts_from_nothing(tmp_path):
    work(tmp_path, "index", 17.0)
    assert work(tmp_path, "index", 5.0).spent("index") == 5.0


def test_a_kill_between_the_result_and_its_time_leaves_a_finished_stage(tmp_path):
    work(tmp_path, "index", 17.0, dies=True)
    found = Clock(tmp_path)
    found.reuse("index")
    assert Clock(tmp_path).spent("index") == 17.0
    assert work(tmp_path, "index", 5.0).spent("index") == 5.0  # removed after all, and made again


def test_a_kill_without_notice_costs_no_more_than_a_beat(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from monoscope.demo import clock\n"
        "clock.BEAT_SECONDS = 0.02\n"
        "with clock.Clock(Path(sys.argv[1])).time('train'):\n"
        "    time.sleep(600)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=os.environ.copy())
    try:
        until = time.monotonic() + 120
        while not (Clock(tmp_path).spent("train") or 0) > 0.1:
            assert run.poll() is None and time.monotonic() < until
            time.sleep(0.02)
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    held = Clock(tmp_path).spent("train")
    assert held is not None and held > 0.1
    assert work(tmp_path, "train", 1000.0).spent("train") == pytest.approx(held + 1000)


def test_the_beat_goes_on_while_a_stage_works_and_ends_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(clock_module, "BEAT_SECONDS", 0.01)
    beaten = threading.Event()
    before = threading.active_count()
    with Clock(tmp_path).time("steer", beaten.set):
        assert beaten.wait(60)
    assert threading.active_count() == before


@pytest.mark.parametrize("damage", ["", "[1]", '{"train": 3}', '{"train": {"seconds": "x"}}'])
def test_a_damaged_file_is_named(tmp_path, damage):
    (tmp_path / SECONDS).write_text(damage, encoding="utf-8")
    with pytest.raises(FormatError, match=r"seconds\.json is damaged"):
        Clock(tmp_path)


def test_the_file_is_plain(tmp_path):
    work(tmp_path, "collect", 2.0)
    work(tmp_path, "train", 4.0, dies=True)
    assert json.loads((tmp_path / SECONDS).read_text(encoding="utf-8")) == {
        "collect": {"seconds": 2.0, "finished": True},
        "train": {"seconds": 4.0, "finished": False},
    }
