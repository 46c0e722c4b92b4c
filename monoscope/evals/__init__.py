"""How good an SAE is: reconstruction, what it costs the model, baselines, intervals."""
