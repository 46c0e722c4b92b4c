"""Schedules at their corners and between."""

from __future__ import annotations

import pytest

from monoscope.train.schedule import lr_factor, ramp


@pytest.mark.parametrize(
    ("done", "expected"),
    [(0.0, 0.0), (0.05, 0.5), (0.1, 1.0), (0.5, 1.0), (0.8, 1.0), (0.9, 0.5), (1.0, 0.0)],
)
def test_rise_plateau_fall(done: float, expected: float) -> None:
    assert lr_factor(done, 0.1, 0.2) == pytest.approx(expected)


def test_without_rise_or_fall_it_is_one() -> None:
    assert [lr_factor(d, 0.0, 0.0) for d in (0.0, 0.5, 1.0)] == [1.0, 1.0, 1.0]


def test_overlapping_rise_and_fall_take_the_lower() -> None:
    assert lr_factor(0.5, 1.0, 1.0) == pytest.approx(0.5)
    assert lr_factor(0.8, 1.0, 1.0) == pytest.approx(0.2)


def test_a_last_batch_past_the_end_is_not_negative() -> None:
    assert lr_factor(1.3, 0.1, 0.2) == 0.0


def test_ramp() -> None:
    assert [ramp(d, 0.5) for d in (0.0, 0.25, 0.5, 1.0)] == [0.0, 0.5, 1.0, 1.0]
    assert ramp(0.0, 0.0) == 1.0
