"""Sweeps: a grid of SAEs on one pass, the law of their losses, and how to spend a budget."""

from monoscope.sweep.run import Sweep, sweep
from monoscope.sweep.scaling import Advice, Law, fit_law, recommend

__all__ = ["Advice", "Law", "Sweep", "fit_law", "recommend", "sweep"]
