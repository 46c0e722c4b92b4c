"""Labels written and judged by a language model behind an OpenAI-compatible endpoint.

`run.explain` is the way in. Nothing is imported here: `table` is read with atlases, without torch.
"""
