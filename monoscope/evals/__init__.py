"""How good an SAE is: reconstruction, what it costs the model, baselines, intervals."""

from monoscope.evals.material import Material, Sizes
from monoscope.evals.result import Baseline, Result
from monoscope.evals.run import evaluate

__all__ = ["Baseline", "Material", "Result", "Sizes", "evaluate"]
