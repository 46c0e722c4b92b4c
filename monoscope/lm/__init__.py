"""Language models: what the house asks of one (LM), and any Hugging Face causal LM (HFModel)."""

from monoscope.lm.hf import HFModel
from monoscope.lm.load import load_lm
from monoscope.lm.protocol import LM, Encoded, Hook, Positions

__all__ = ["LM", "Encoded", "HFModel", "Hook", "Positions", "load_lm"]
