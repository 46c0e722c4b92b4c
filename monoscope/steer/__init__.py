"""Steering: edits as values, steered generation, and finding the features that write."""

from monoscope.steer.edits import Ablate, Add, Cap, Edit, Scale, Set, parse_edit
from monoscope.steer.feature_sweep import FeatureSweep, SweepResult, sweep_feature
from monoscope.steer.generate import Generation, TokenScore, generate
from monoscope.steer.live import LiveToken, side_by_side
from monoscope.steer.prompts import NEUTRAL_PROMPTS
from monoscope.steer.screen import OutputScore, Promised, by_rank, output_score
from monoscope.steer.strength import StrengthSearch, Trial, search_strength
from monoscope.steer.sweep import SweetSpot, sweep
from monoscope.steer.writers import WriterScore, find_writers

__all__ = [
    "NEUTRAL_PROMPTS",
    "Ablate",
    "Add",
    "Cap",
    "Edit",
    "FeatureSweep",
    "Generation",
    "LiveToken",
    "OutputScore",
    "Promised",
    "Scale",
    "Set",
    "StrengthSearch",
    "SweepResult",
    "SweetSpot",
    "TokenScore",
    "Trial",
    "WriterScore",
    "by_rank",
    "find_writers",
    "generate",
    "output_score",
    "parse_edit",
    "search_strength",
    "side_by_side",
    "sweep",
    "sweep_feature",
]
