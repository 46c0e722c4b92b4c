"""Training: config, state, one step, one loop, and what a run needs around them."""

from monoscope.train.alike import alike
from monoscope.train.run import Run, train

__all__ = ["Run", "alike", "train"]
