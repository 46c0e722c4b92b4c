"""A saved SAE that is damaged, cut short, changed or of another version: one clear line each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from monoscope.artifact import load_sae, save_sae
from monoscope.errors import FormatError
from monoscope.files import sha256_file
from monoscope.sae import SAE, SAEConfig

ABOUT, WEIGHTS = "sae.json", "sae.safetensors"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    sae = SAE(SAEConfig(d_in=3, d_sae=5, activation="topk", k=2))
    return save_sae(sae, tmp_path / "sae")


def told(folder: Path, **changed: object) -> None:
    about = json.loads((folder / ABOUT).read_text())
    (folder / ABOUT).write_text(json.dumps(about | changed))


def weighed(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """The weights changed, and their hash made right again."""
    held = load_file(folder / WEIGHTS)
    change(held)
    save_file(held, folder / WEIGHTS)
    told(folder, sha256=sha256_file(folder / WEIGHTS))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", r"cannot read .*sae\.json"),
        ("[1]", r"sae\.json is damaged: got list; expected a JSON object"),
        ("{}", "does not say its schema_version: expected at most 1"),
        ('{"schema_version": 2}', "newer monoscope: got schema_version 2; expected at most 1"),
        ('{"schema_version": 1}', r"sae\.json is damaged: got no config or provenance"),
    ],
)
def test_what_it_says_of_itself(saved: Path, text: str, says: str) -> None:
    (saved / ABOUT).write_text(text)
    with pytest.raises(FormatError, match=says):
        load_sae(saved)


def test_weights_cut_short_or_gone(saved: Path) -> None:
    whole = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(whole[:-8])
    with pytest.raises(FormatError, match=r"cannot read .*sae\.safetensors"):
        load_sae(saved)
    (saved / WEIGHTS).unlink()
    with pytest.raises(FormatError, match=r"cannot read .*sae\.safetensors"):
        load_sae(saved)


def test_one_flipped_bit(saved: Path) -> None:
    held = bytearray((saved / WEIGHTS).read_bytes())
    held[-1] ^= 1
    (saved / WEIGHTS).write_bytes(held)
    with pytest.raises(FormatError, match="not those that were saved"):
        load_sae(saved)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda held: held.pop("b_enc"), r"weight b_enc .*: got missing"),
        (lambda held: held.update(more=torch.zeros(1)), "weight more .*: got not a weight of this"),
        (
            lambda held: held.update(W_dec=held["W_dec"].T.contiguous()),
            r"W_dec .* does not fit: got \[3, 5\] .*; expected \[5, 3\]",
        ),
        (lambda held: held.update(b_dec=held["b_dec"].double()), "b_dec .* got .*float64"),
    ],
)
def test_weights_that_do_not_fit(saved: Path, change: Callable[..., None], says: str) -> None:
    weighed(saved, change)
    with pytest.raises(FormatError, match=says):
        load_sae(saved)
