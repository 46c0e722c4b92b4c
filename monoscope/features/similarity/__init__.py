"""Scores without words: are the texts a latent fires on like its examples?

`run.score_similarity` is the way in. Nothing is imported here: atlases are read without torch.
"""
