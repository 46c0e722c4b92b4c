"""Labels made of n-grams: the shortest text that makes a latent fire, found with the model.

`run.label_ngrams` is the way in. Nothing is imported here: atlases are read without torch.
"""
