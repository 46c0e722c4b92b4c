"""A device that is not there is refused in one line that names those that are, wherever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from monoscope.artifact import load_sae, save_sae
from monoscope.cli.options import Device
from monoscope.devices import devices, require_device
from monoscope.errors import ConfigError
from monoscope.lm import load_lm
from monoscope.sae import SAE, SAEConfig
from monoscope.train import train
from monoscope.train.grid import train_many

NOWHERE = ["cuda:99", "nonsense", "meta", "cpu:3", "", "mps:7", "xla", 3.5, ["cpu"]]
if not torch.cuda.is_available():
    NOWHERE += ["cuda", "cuda:0", torch.device("cuda:3")]
if not torch.backends.mps.is_available():
    NOWHERE.append("mps")


def refused(do: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        do()
    line = str(caught.value)
    assert line.startswith("no such device here: got ") and "\n" not in line
    assert f"expected one of {', '.join(devices())}" in line
    return line


@pytest.mark.parametrize("given", NOWHERE, ids=str)
def test_one_that_is_not_there_names_those_that_are(given: Any) -> None:
    assert str(given) in refused(lambda: require_device(given))


def test_those_that_are_there_hold_numbers() -> None:
    assert devices()[0] == "cpu"
    names: list[Any] = ["cpu", "cpu:0", torch.device("cpu"), *devices()]
    for name in names:
        place = require_device(name)
        assert torch.ones(2, device=place).sum() == 2
    assert require_device(None).type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_without_a_gpu_the_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monoscope.devices.devices", lambda: ["cpu"])
    with pytest.raises(ConfigError, match="use cpu, or leave device out"):
        require_device("cuda")


def test_two_gpus_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monoscope.devices.devices", lambda: ["cpu", "cuda:0", "cuda:1"])
    assert [str(require_device(d)) for d in ("cuda", "cuda:1")] == ["cuda", "cuda:1"]
    with pytest.raises(ConfigError, match="one of cpu, cuda:0, cuda:1"):
        require_device("cuda:2")


@pytest.mark.parametrize("given", ["cuda:99", "nonsense"])
def test_everything_that_takes_a_device_refuses_it(given: str, tmp_path: Path) -> None:
    save_sae(SAE(SAEConfig(d_in=4, d_sae=8, k=2)), tmp_path)
    x = torch.randn(64, 4)
    refused(lambda: train(x, d_sae=8, k=2, batch_size=8, device=given))
    refused(lambda: train_many(x, [], batch_size=8, device=given))
    refused(lambda: load_lm("demo", device=given))
    refused(lambda: load_sae(tmp_path, device=given))
    assert load_sae(tmp_path, device="cpu").W_enc.device == torch.device("cpu")


def test_every_verb_refuses_it_before_anything_else() -> None:
    import typer

    app, ran = typer.Typer(), []

    @app.command()
    def verb(device: Device = None) -> None:
        ran.append(device)

    found = CliRunner().invoke(app, ["--device", "cuda:99"])
    assert isinstance(found.exception, ConfigError) and "no such device here" in str(
        found.exception
    )
    assert ran == []
    assert CliRunner().invoke(app, []).exit_code == 0
    assert CliRunner().invoke(app, ["--device", "cpu"]).exit_code == 0
    assert ran == [None, "cpu"]
