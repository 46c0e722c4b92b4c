"""Files that `eval --out` wrote, read by SAEBench's own classes: taken, or refused as said."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

import monoscope as ms
from monoscope import cli
from monoscope.evals import saebench

pytestmark = pytest.mark.peers
PYTHON = Path(__file__).parents[2] / ".venv-peers-bench" / "bin" / "python"
SCRIPT = Path(__file__).parent / "peers" / "bench_schema.py"


def as_saebench(path):
    """What SAEBench's CoreEvalOutput makes of a file."""
    run = subprocess.run([PYTHON, SCRIPT, path], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What `eval` wrote of a small SAE: with the embedded model, without, and as a suite."""
    if not PYTHON.exists():
        pytest.skip("no .venv-peers-bench: run make test-peers")
    out = tmp_path_factory.mktemp("suite")
    lm = ms.load_lm("demo")
    store = ms.collect(
        lm, ms.Corpus.demo(0), site="resid_post.15", n_tokens=4_000, out=out / "store",
        held_out=0.3,
    )  # fmt: skip
    ms.train(store, d_sae=256, k=16, n_tokens=8_000, batch_size=256, out=out / "sae")
    wanted = {
        "with": ["--splice-tokens", "300"],
        "without": ["--no-model"],
        "core": ["--no-model", "--suite", "core"],
    }
    for name, more in wanted.items():
        verb = ["eval", str(out / "sae"), "--store", str(out / "store")]
        told = ["--fresh", "--bootstrap", "20", "--out", str(out / f"{name}.json")]
        with pytest.raises(SystemExit) as left:
            cli.main([*verb, *told, *more])
        assert left.value.code in (0, None)
    return {name: out / f"{name}.json" for name in wanted}


def test_a_result_is_saebench_output_key_by_key(results):
    """Read with SAEBench's own class and written again, nothing is lost, added or changed."""
    told = json.loads(results["with"].read_text())
    read = as_saebench(results["with"])
    assert read["same"], read
    assert tuple(read["keys"]) == tuple(told) == saebench.KEYS
    assert read["config"] == list(told["eval_config"])
    assert told["eval_result_unstructured"]["monoscope"]["not_saebench"] == []
    assert len(told["eval_result_details"]) > 100


@pytest.mark.parametrize("name", ["without", "core"])
def test_what_saebench_refuses_is_what_the_file_says_it_will(results, name):
    told = json.loads(results[name].read_text())
    read = as_saebench(results[name])
    named = told["eval_result_unstructured"]["monoscope"]["not_saebench"]
    assert read["refused"] == sorted(named) == [
        "model_behavior_preservation", "model_performance_preservation",
    ]  # fmt: skip
