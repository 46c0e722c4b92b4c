"""`monoscope label` against monoscope's own endpoint with the real SmolLM2: that it fits together.

What so small a model answers is worth nothing; that every answer is counted, kept and never asked
for twice is what is tested.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from monoscope import cli
from monoscope.features.atlas import load_atlas

pytestmark = pytest.mark.slow
SHORT = {
    "explain": '## user\n{{excerpts}}\nAnswer only {"explanation": "a few words"}',
    "detect": '## user\n{{explanation}}\n{{excerpts}}\nAnswer only {"answers": [0, 1, 1]}',
    "fuzz": '## user\n{{explanation}}\n{{excerpts}}\nAnswer only {"answers": [0, 1, 1]}',
}


def test_the_whole_path_with_a_real_model(live, bench, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.delenv("MONOSCOPE_EXPLAINER_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for name, text in SHORT.items():
        (tmp_path / f"{name}.md").write_text(text, encoding="utf-8")
    latent = load_atlas(bench / "atlas").list("density", limit=1)[0].latent
    args = [
        "label", str(bench / "atlas"), str(bench / "sae"), "--store", str(bench / "store"),
        "--explainer-url", live, "--explainer-model", "demo", "--latents", str(latent),
        "--items", "3", "--controls", "0", "--answer-tokens", "24",
        "--prompts", str(tmp_path), "--cache", str(tmp_path / "kept"),
        "--price-in", "1", "--price-out", "1", "--concurrency", "1",
        "--json",
    ]  # fmt: skip
    told = []
    for _ in range(2):
        with pytest.raises(SystemExit) as left:
            cli.main(args)
        out, err = capsys.readouterr()
        assert left.value.code == 0, err
        assert "label: about" in err and "questions" in err
        told.append(json.loads(out))
    first, again = told
    assert first["n_latents"] == 1 and first["spent"]["n_calls"] >= 1
    assert first["spent"]["prompt_tokens"] > 0 and first["spent"]["cost"] > 0
    kept = sum(len(p.read_bytes().splitlines()) for p in (tmp_path / "kept").iterdir())
    assert again["reused"]["n_calls"] >= min(1, kept)
    assert again["n_failed"] == first["n_failed"]  # the same model, the same answers
    explanation = load_atlas(bench / "atlas").feature(latent).explanation
    assert explanation is not None and explanation["model"] == "demo"
    assert explanation["n_failed"] == sum(again["failures"].values())
