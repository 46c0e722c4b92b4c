"""The command line: its answers, its one-line errors, its exit codes; no model is loaded."""

from __future__ import annotations

import errno
import importlib
import json
import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from monoscope import cli
from monoscope.cli import assess, build, options
from monoscope.errors import ConfigError, TrainingError

VERBS = (
    "demo", "collect", "train", "eval", "report", "index", "label", "sweep", "features", "view",
    "info", "steer", "compare", "split", "import", "export",
)  # fmt: skip


def run(capsys, *args):
    """Exit code, stdout, stderr of one command."""
    with pytest.raises(SystemExit) as left:
        cli.main(list(args))
    told = capsys.readouterr()
    return left.value.code, told.out, told.err


def refused(capsys, *args):
    """The one line of a command that must exit with 2 and print nothing else."""
    code, out, err = run(capsys, *args)
    assert (code, out) == (2, "")
    assert err.startswith("monoscope: ") and err.count("\n") == 1
    return err


@pytest.fixture
def raising(monkeypatch):
    """Make `info` raise what is given."""

    def arm(exc):
        def describe(path=None):
            raise exc

        monkeypatch.setattr("monoscope.describe.info", describe)

    return arm


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example_of_itself(capsys, verb):
    code, out, err = run(capsys, verb, "--help")
    assert (code, err) == (0, "")
    assert f"Example: monoscope {verb} " in " ".join(out.split())
    assert "--json" in out


def test_help_lists_the_verbs_and_no_others(capsys):
    code, out, _ = run(capsys, "--help")
    listed = [
        line.split()[0] for line in out.split("Commands:")[1].splitlines()[1:] if line.strip()
    ]
    assert code == 0
    assert run(capsys) == (0, out, "")
    assert tuple(listed[: len(VERBS)]) == VERBS and listed[len(VERBS)] == "Begin"


def test_help_loads_no_heavy_library():
    code = (
        "import sys, monoscope.cli; print({'torch', 'transformers', 'duckdb'} & set(sys.modules))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["trian"], "Did you mean 'train'"),
        (["train"], "monoscope train --help"),
        (["train", "x", "--out", "y", "--k", "many"], "'--k'"),
        (["train", "x", "--out", "y", "--nosuch"], "--nosuch"),
        (["train", "x", "--out", "y", "--set", "a"], "expected name=value"),
        (["train", "nowhere", "--out", "y", "--json"], "nowhere is not an activation store"),
        (["eval", "nosae", "--store", "s", "--json"], "nosae is not an SAE folder"),
        (["eval", "a", "--store", "s", "--model", "m", "--no-model"], "exclude each other"),
        (["eval", "nosae", "--store", "s", "--splice-tokens", "0"], "--splice-tokens"),
        (["eval", "nosae", "--store", "s", "--suite=cpu", "--tokens=0"], "--tokens"),
        (["eval", "nosae", "--store", "s", "--suite=cup"], "Did you mean cpu"),
        (["index", "nosae", "--store", "s", "--out", "o"], "nosae is not an SAE folder"),
        (["label", "noatlas", "nosae", "--store", "s"], "noatlas is not an atlas"),
        (["steer", "nosae", "--prompt", "p", "--edit", "1=ablate"], "nosae is not an SAE"),
        (["steer", "nosae", "--prompt", "p", "--words", "w"], "Give --sweep N"),
        (["steer", "nosae", "--prompt", "p", "--sweep", "1"], "Give --atlas"),
        (
            ["steer", "nosae", "--prompt=p", "--sweep=1", "--atlas=a", "--edit=1=ablate"],
            "makes its own edits",
        ),
        (
            ["steer", "nosae", "--prompt=p", "--sweep=1", "--atlas=a", "--strengths=1,x"],
            "--strengths",
        ),
        (["steer", "nosae", "--messages", "hello"], "bad --messages"),
        (["compare", "noatlas", "b"], "noatlas is not an atlas"),
        (["compare", "a", "b", "--kind", "same"], "bad --kind"),
        (["features", "noatlas"], "noatlas is not an atlas"),
        (["features", "a", "--search", "x", "--id", "1"], "one question at a time"),
        (["features", "noatlas", "--text", "x"], "noatlas is not an atlas"),
        (["features", "a", "--sae", "s"], "Give --text or --messages"),
        (["features", "a", "--text-b", "x"], "--text-b is compared with --text"),
        (["features", "a", "--text", "x", "--sae", "s", "--by", "size"], "bad --by"),
        (["features", "a", "--limit", "0"], "--limit"),
        (["view", "noatlas", "--no-browser"], "noatlas is not an atlas"),
        (["view", "noatlas", "--port", "99999"], "--port"),
        (["info", "nowhere"], "not a folder of monoscope's"),
        (
            ["collect", "--model=demo", "--corpus=nofile", "--site=embed", "--tokens=9", "--out=o"],
            "nofile",
        ),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(capsys, monkeypatch, tmp_path, args, said):
    monkeypatch.chdir(tmp_path)
    assert said in refused(capsys, *args)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("more", [(), ("--suite", "core"), ("--suite", "cpu", "--other", "b")])
def test_eval_puts_every_sae_on_the_device_that_was_named(monkeypatch, tmp_path, more):
    """Not the model alone: `encode` refuses activations on another device than the weights'."""

    class Reached(Exception):
        pass

    class Sae:
        def to(self, place):
            moved.append(place)
            if len(moved) == 1 + ("--other" in more):
                raise Reached
            return self

    moved: list[str] = []
    monkeypatch.setattr("monoscope.artifact.load_sae", lambda path: Sae())
    whole = SimpleNamespace(manifest=SimpleNamespace(complete=True))
    monkeypatch.setattr("monoscope.data.store.ActivationStore.open", lambda path: whole)
    monkeypatch.setattr("monoscope.cli.options.checked_device", lambda given: "cuda:1")
    with pytest.raises(Reached):
        assess.evaluate("a", "s", no_model=True, **asked(more))
    assert set(moved) == {"cuda:1"}


@pytest.mark.parametrize("verb", ["eval", "index", "train"])
@pytest.mark.parametrize("complete", [False, True])
def test_a_store_whose_harvest_did_not_finish_is_said_to_be_that(
    monkeypatch, capsys, verb, complete
):
    class Reached(Exception):
        pass

    def reach(*args, **kwargs):
        raise Reached

    manifest = SimpleNamespace(
        complete=complete, n_tokens=lambda: 65_536, arguments=SimpleNamespace(n_tokens=600_000)
    )
    held = SimpleNamespace(manifest=manifest)
    monkeypatch.setattr("monoscope.data.store.ActivationStore.open", lambda path: held)
    sae = SimpleNamespace(to=lambda place: sae)
    monkeypatch.setattr("monoscope.artifact.load_sae", lambda path: sae)
    works = (("evals.suite", "run_suite"), ("features.index", "index"), ("train", "train"))
    for room, work in works:
        monkeypatch.setattr(importlib.import_module(f"monoscope.{room}"), work, reach)
    with pytest.raises(Reached):
        if verb == "train":
            build.train("out", "s")
        elif verb == "index":
            build.index("a", "s", "out", no_model=True)
        else:
            assess.evaluate("a", "s", no_model=True)
    said = "the store s is unfinished: 65,536 of 600,000 tokens; run collect again"
    assert (said in capsys.readouterr().err) == (not complete)


def asked(flags):
    """What `eval` is called with for these flags."""
    named = dict(zip(flags[::2], flags[1::2], strict=True))
    return {
        "suite": named.get("--suite", "quick"),
        "other": [v for v in [named.get("--other")] if v],
    }


def test_json_is_one_object_whatever_libraries_print(capsys, monkeypatch):
    def describe(path=None):
        print("noise of a library")
        return {"fvu": math.nan, "n": [1, math.inf], "text": "é\n"}

    monkeypatch.setattr("monoscope.describe.info", describe)
    code, out, err = run(capsys, "info", "--json")
    assert (code, out.count("\n")) == (0, 1)
    assert json.loads(out) == {"fvu": None, "n": [1, None], "text": "é\n"}
    assert err == "noise of a library\n"


def test_exit_codes_of_what_a_verb_raises(capsys, raising):
    raising(TrainingError("the loss is not finite"))
    assert run(capsys, "info") == (1, "", "monoscope: the loss is not finite\n")
    raising(OSError(errno.ENOSPC, "No space left on device", "x/y"))
    code, _, err = run(capsys, "info")
    assert code == 2 and "disk is full: could not write x/y" in err
    raising(OSError(errno.EIO, "Input/output error", "x/y"))
    code, _, err = run(capsys, "info")
    assert code == 1 and err.count("\n") == 1


def test_control_characters_in_a_message_do_not_reach_the_terminal(capsys, raising):
    raising(ConfigError("bad", got="\x1b[31mred"))
    assert "\x1b" not in refused(capsys, "info")


def test_ctrl_c_says_how_to_go_on(capsys, monkeypatch):
    def stop(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("monoscope.data.store.ActivationStore.open", stop)
    code, out, err = run(capsys, "train", "s", "--out", "o")
    assert (code, out) == (130, "")
    assert (
        err.strip().count("\n") == 0
        and err.strip().startswith("monoscope: stopped")
        and "--resume" in err
    )


def test_train_passes_its_flags_on_and_prints_the_metrics(capsys, monkeypatch):
    got = {}

    def fit(source, *, progress, **kwargs):
        from monoscope.train.loop import Progress

        got.update(kwargs, source=source)
        progress(Progress(10, 20, 1.0, 0.5, 4.0, 0.1, 100.0))
        metrics = {"n_tokens": 20, "fvu": 0.5, "out": "o"}
        return type("Run", (), {"metrics": metrics})()

    monkeypatch.setattr("monoscope.cli.stores.open_store", lambda path: path)
    import importlib

    monkeypatch.setattr(importlib.import_module("monoscope.train"), "train", fit)
    args = "train s --out o --d-sae 48 --k 3 --recipe topk --tokens 99 --batch-size 7 --lr 0.01"
    args += " --set k_aux=5 --set warmup_fraction=0.5 --resume --seed 4 --device cpu --json"
    code, out, _ = run(capsys, *args.split())
    assert code == 0 and json.loads(out) == {"n_tokens": 20, "fvu": 0.5, "out": "o"}
    assert got == {
        "source": "s", "out": "o", "d_sae": 48, "k": 3, "recipe": "topk", "activation": None,
        "target_l0": None,
        "n_tokens": 99, "batch_size": 7, "lr": 0.01, "seed": 4, "device": "cpu", "resume": True,
        "settings": {"k_aux": 5, "warmup_fraction": 0.5},
    }  # fmt: skip


def test_demo_passes_its_flags_on_and_prints_the_summary_once(capsys, monkeypatch):
    got = {}

    def run_demo(out, **kwargs):
        got.update(kwargs, out=out)
        return {"seconds": {"train": 2.5}}

    monkeypatch.setattr("monoscope.demo.run_demo", run_demo)
    code, out, _ = run(capsys, "demo", "--out=o", "--tokens=9", "--d-sae=8", "--seed=3", "--json")
    assert code == 0 and json.loads(out) == {"seconds": {"train": 2.5}}
    assert got == {
        "out": "o", "tokens": 9, "d_sae": 8, "site": "resid_post.15", "model": "demo", "seed": 3,
        "as_json": True,
    }  # fmt: skip


def test_an_unknown_setting_names_the_nearest(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("monoscope.cli.stores.open_store", lambda path: torch.zeros(64, 5))
    args = ["train", "s", "--out", str(tmp_path / "o"), "--set", "warmup_fractoin=0.1"]
    assert "warmup_fraction" in refused(capsys, *args)


def test_settings_are_json_values_or_text():
    pairs = ["a=1", "b = 0.5", "c=text", "d=null", "e=x=y"]
    assert options.parse_settings(pairs) == {"a": 1, "b": 0.5, "c": "text", "d": None, "e": "x=y"}
    for bad in (["a"], ["=1"], ["a="], ["a=1", "a=2"]):
        with pytest.raises(ConfigError):
            options.parse_settings(bad)


def test_a_device_that_is_not_there_is_refused():
    assert options.checked_device("cpu") == "cpu"
    for bad in ("quantum", "cuda:99"):
        with pytest.raises(ConfigError, match="no such device"):
            options.checked_device(bad)


def test_the_model_is_the_recorded_one_unless_named(monkeypatch):
    asked = []
    monkeypatch.setattr("monoscope.lm.load_lm", lambda name, device: asked.append((name, device)))
    sae = type("S", (), {"provenance": {"model": {"model": "org/m"}}})()
    options.recorded_model(sae, None, "cpu")
    options.recorded_model(sae, "demo", None)
    assert asked == [("org/m", "cpu"), ("demo", None)]
    with pytest.raises(ConfigError, match="--model"):
        options.recorded_model(type("S", (), {"provenance": {}})(), None, None)


def test_view_passes_its_flags_on_and_prints_the_address(capsys, monkeypatch, tmp_path):
    import importlib

    serve = importlib.import_module("monoscope.viewer.serve")
    got = {}

    def served(config, *, browser, said=print):
        got.update(config=config, browser=browser)
        said("http://127.0.0.1:9/")

    monkeypatch.setattr(serve, "serve", served)
    monkeypatch.setattr(serve, "read_manifest", lambda folder: {"sae": {"hash": "x"}})
    atlas = str(tmp_path / "atlas")
    args = ["--port", "9", "--no-browser", "--sae", "s", "--runs", "r", "--model", "m"]
    assert run(capsys, "view", atlas, *args) == (0, "http://127.0.0.1:9/\n", "")
    config = got["config"]
    assert (str(config.atlas), config.port, config.model) == (atlas, 9, "m")
    assert (str(config.sae), str(config.runs), got["browser"]) == ("s", "r", False)
    code, out, _ = run(capsys, "view", atlas, "--json")
    assert code == 0 and json.loads(out) == {"url": "http://127.0.0.1:9/"}
    assert got["browser"] and got["config"].runs == tmp_path and got["config"].sae is None


@pytest.mark.parametrize("verb", [["train"], ["sweep", "--d-sae", "8"]])
def test_train_and_sweep_take_one_source(capsys, verb):
    for args in ([], ["s", "--model", "m"], ["--model", "m", "--corpus", "c"]):
        told = refused(capsys, *verb, *args, "--out", "o")
        assert f"{verb[0]} takes a store, or a model" in told
    told = refused(capsys, *verb, "s", "--out", "o", "--max-doc-tokens", "9")
    assert "--max-doc-tokens is for a model that reads" in told


def test_train_straight_from_a_model(capsys, monkeypatch):
    import importlib

    from monoscope.data.live import Live
    from tests.unit.data.fake_lm import FakeLM

    got = {}

    def fit(source, **kwargs):
        got.update(kwargs, source=source)
        return type("Run", (), {"metrics": {"fvu": 0.5}})()

    monkeypatch.setattr("monoscope.lm.load_lm", lambda name, device: FakeLM(context_length=128))
    monkeypatch.setattr(importlib.import_module("monoscope.train"), "train", fit)
    args = "train --model m --corpus demo --site resid_post.0 --tokens 99 --out o --json"
    code, out, _ = run(capsys, *args.split())
    assert code == 0 and json.loads(out) == {"fvu": 0.5}
    assert isinstance(got["source"], Live) and str(got["source"].site) == "resid_post.0"
    assert got["n_tokens"] == 99 and got["source"].max_doc_tokens == 1024
    assert run(capsys, *args.split(), "--max-doc-tokens", "7")[0] == 0
    assert got["source"].max_doc_tokens == 7
    assert "max_doc_tokens is out of range" in refused(
        capsys, *args.split(), "--max-doc-tokens", "0"
    )


def test_sweep_reads_lists_and_prints_one_object(capsys, monkeypatch):
    import importlib

    got = {}

    def grid(store, **kwargs):
        got.update(kwargs, store=store)
        return type("Made", (), {"to_json": lambda self: {"rows": []}})()

    monkeypatch.setattr("monoscope.cli.sweep.open_store", lambda path: path)
    monkeypatch.setattr(importlib.import_module("monoscope.sweep"), "sweep", grid)
    args = "sweep s --out o --d-sae 8,16 --k 2,0.5 --recipe topk,gated --seed 0,1 --tokens 9,19"
    code, out, _ = run(capsys, *args.split(), "--budget", "1e12", "--resume", "--json")
    assert code == 0 and json.loads(out) == {"rows": []}
    asked = {name: got[name] for name in ("d_sae", "k", "recipe", "seed", "n_tokens", "budget")}
    assert asked == {
        "d_sae": [8, 16], "k": [2, 0.5], "recipe": ["topk", "gated"], "seed": [0, 1],
        "n_tokens": [9, 19], "budget": 1e12,
    }  # fmt: skip
    assert got["resume"] is True
    assert "bad value in --k: got 'x'" in refused(
        capsys, "sweep", "s", "--out", "o", "--d-sae", "8", "--k", "2,x"
    )


def test_sweep_takes_several_sites_of_a_model_or_several_stores(capsys, monkeypatch):
    import importlib

    from tests.unit.data.fake_lm import SitedLM

    got, loaded = {}, []

    def grid(sources, **kwargs):
        got.update(kwargs, sources=sources)
        return type("Made", (), {"to_json": lambda self: {"rows": []}})()

    def load(name, device):
        loaded.append(name)
        return SitedLM(context_length=128)

    monkeypatch.setattr("monoscope.lm.load_lm", load)
    monkeypatch.setattr(importlib.import_module("monoscope.sweep"), "sweep", grid)
    args = ["sweep", "--d-sae", "8", "--model", "m", "--corpus", "demo", "--out", "o", "--json"]
    sites = ["--site", "resid_post.1, resid_post.0"]
    assert run(capsys, *args, *sites, "--tokens", "99", "--max-doc-tokens", "7")[0] == 0
    assert [str(source.site) for source in got["sources"]] == ["resid_post.1", "resid_post.0"]
    assert {source.max_doc_tokens for source in got["sources"]} == {7} and loaded == ["m"]
    assert got["n_tokens"] == [99]
    assert "--tokens is needed where a model reads" in refused(capsys, *args, *sites)
    for bad, said in (
        ("resid_post.1,resid_post.1", "each site once"),
        ("resid_post.1,nowhere", "unknown site"),
        ("{resid_post.0,resid_post.1}", "crosscoder site"),
    ):
        assert said in refused(capsys, *args, "--site", bad, "--tokens", "99")
    assert loaded == ["m"], "all of that was known before a model was loaded"
    assert "no layer 7" in refused(capsys, *args, "--site", "resid_post.7", "--tokens", "99")

    class Store:
        def __init__(self, path):
            self.size = {"a": 30, "b": 20}[path]

        def n_tokens(self, split):
            return self.size

    monkeypatch.setattr("monoscope.cli.sweep.open_store", Store)
    assert run(capsys, "sweep", "a", "b", "--d-sae", "8", "--json")[0] == 0
    assert [source.size for source in got["sources"]] == [30, 20] and got["n_tokens"] == [120]


@pytest.mark.parametrize("k", ["0", "-1", "0.0", "1.5", "4097", "nan"])
def test_a_bad_k_names_both_its_ranges(k):
    from monoscope.sae import SAEConfig

    with pytest.raises(ConfigError) as caught:
        SAEConfig(d_in=4, d_sae=4096, k=options.count(float(k)))
    assert f"got {float(k):g}" in str(caught.value) or "got k 4097" in str(caught.value)
    assert "a whole number from 1 to 4096 = d_sae, or a share of d_sae, 0 < k < 1" in str(
        caught.value
    )
