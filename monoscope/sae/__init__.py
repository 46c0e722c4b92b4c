"""The autoencoder: config, model, losses, recipes and surgery."""

from monoscope.sae.config import SAEConfig
from monoscope.sae.model import SAE

__all__ = ["SAE", "SAEConfig"]
