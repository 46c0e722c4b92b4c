"""Sweeps: a grid of SAEs on one pass, the law of their losses, and how to spend a budget."""

from monoscope.sweep.result import Conclusion, Sweep
from monoscope.sweep.run import sweep
from monoscope.sweep.scaling import Advice, Law, fit_law, recommend

__all__ = ["Advice", "Conclusion", "Law", "Sweep", "fit_law", "recommend", "sweep"]
