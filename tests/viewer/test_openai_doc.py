"""The script in docs/openai.md, as it stands, against the real server and model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import monoscope as ms

PAGE = Path(__file__).parents[2] / "docs" / "openai.md"


@pytest.mark.slow
def test_the_script_of_the_page_runs_and_steers(
    live: str, bench: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the address and the latent are this viewer's own: its SAE is smaller than the demo's."""
    found = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    peaks = torch.tensor(ms.load_sae(bench / "sae").provenance["latent_max"])
    script = found[1]
    for theirs, ours in (
        ("http://127.0.0.1:8642", live), ("2365", str(int(peaks.argmax()))),
    ):  # fmt: skip
        assert script.count(theirs) == 1
        script = script.replace(theirs, ours)
    exec(compile(script, str(PAGE), "exec"), {"__name__": "__main__"})
    told = dict(line.partition(":")[::2] for line in capsys.readouterr().out.splitlines() if line)
    assert told["models"] == " ['demo']"
    assert told["default"] != told["steered"]
    assert "add:0.6norm" in told["what it took"]
    assert "Paris" in told["next token"]
    assert "no such latent" in told["refused"]
