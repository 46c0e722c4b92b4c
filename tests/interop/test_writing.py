"""What monoscope writes as other libraries' comes back the same, or is refused with its reason."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch

import monoscope as ms
from monoscope.artifact.interop import FORMATS, InteropWarning, dictionary_learning, saelens
from monoscope.artifact.interop.export import export_sae
from monoscope.artifact.interop.probe import drawn_probe, read_probe, stored_probe
from monoscope.cli import main
from monoscope.data.harvest import collect
from monoscope.errors import ConfigError, FormatError, MismatchError, OutputError
from monoscope.interop import export, import_sae, saebench
from tests.unit.data.fake_lm import FakeLM, make_corpus

D, L, K = 5, 24, 4
SITE = "resid_post.2"
READ = {  # all that SAELens's metadata have room for, so that nothing is lost
    "prefix_ids": [], "context_length": 32, "corpus": {"kind": "hub", "name": "owner/texts"},
    "mask_policy": {"special_ids": [0], "sink_ratio": 10.0, "max_norm": None},
}  # fmt: skip


def make(activation: str, **origin) -> ms.SAE:
    g = torch.Generator().manual_seed(3)
    k = K if "topk" in activation else None
    sae = ms.SAE(
        ms.SAEConfig(d_in=D, d_sae=L, activation=activation, k=k),
        {"site": SITE, "model": {"model": "gpt2"}} | READ | origin,
    )
    with torch.no_grad():
        for name, value in sae.named_parameters():
            value.copy_(torch.randn(value.shape, generator=g) * (1 if value.ndim == 2 else 0.4))
            if name == "threshold":
                value.abs_()
        sae.W_dec.div_(sae.W_dec.norm(dim=1, keepdim=True))
        if activation == "batchtopk":
            sae.threshold.fill_(0.6)
    return sae


def same(a: ms.SAE, b: ms.SAE) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[n], theirs[n]) for n in mine)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    out = tmp_path_factory.mktemp("store") / "s"
    return collect(FakeLM(), make_corpus(60), "embed", 600, out, held_out=0.3, context_length=32)


PAIRS = [(f.name, activation) for f in FORMATS.values() for activation in f.writes]


@pytest.mark.filterwarnings("ignore::monoscope.artifact.interop.InteropWarning")
@pytest.mark.parametrize(("to", "activation"), PAIRS)
def test_out_and_back(tmp_path, to, activation):
    sae = make(activation)
    done = export_sae(sae, tmp_path / "layers.2", to)
    back = ms.load_sae(tmp_path / "layers.2")
    assert back.config == sae.config
    assert back.provenance["site"] == SITE
    folded = (to, activation) == ("dictionary_learning", "jumprelu")  # W_enc b_dec in and out
    assert same(back, sae) or folded
    assert done.agreement.exact or folded
    x = stored_probe(tmp_path / "layers.2")
    torch.testing.assert_close(back.encode(x).to_dense(), sae.encode(x).to_dense())
    assert float(sae.encode(x).l0.float().mean()) > 1


def test_half_precision_goes_out_as_it_came_in(tmp_path):
    sae = make("topk", imported={"dtype": "bfloat16"})
    with torch.no_grad():
        for value in sae.parameters():
            value.copy_(value.to(torch.bfloat16))
    export_sae(sae, tmp_path, "saelens")
    assert json.loads((tmp_path / "cfg.json").read_text())["dtype"] == "bfloat16"
    assert same(ms.load_sae(tmp_path), sae)


def test_everything_known_of_an_sae_survives_saelens(tmp_path):
    sae = make("batchtopk", mask_policy={"special_ids": [0], "max_norm": 9.5}, recipe="batchtopk")
    with pytest.warns(InteropWarning, match=r"longer than 9\.5"):
        export_sae(sae, tmp_path, "saelens")
    back = ms.load_sae(tmp_path)
    assert {k: v for k, v in back.provenance.items() if k != "imported"} == sae.provenance


def test_what_cannot_be_carried_is_named(tmp_path):
    with pytest.warns(InteropWarning) as caught:
        export_sae(make("topk"), tmp_path / "a", "sparsify")
    lines = [str(w.message) for w in caught]
    assert any("should be layers.2" in line for line in lines)
    assert any("provenance" in line for line in lines)
    free = make("relu")
    with torch.no_grad():
        free.W_dec.mul_(2)
    with pytest.warns(InteropWarning, match="decoder norms"):
        export_sae(free, tmp_path / "b", "dictionary_learning")
    with pytest.warns(InteropWarning, match=r"mlp_in\.2"):
        export_sae(make("relu", site="mlp_in.2"), tmp_path / "c", "saelens")


@pytest.mark.parametrize(
    ("to", "activation", "said"),
    [
        ("sparsify", "batchtopk", "Export it as saelens or dictionary_learning"),
        ("saelens", "identity", "no identity SAE"),
        ("openai", "topk", "read only"),
    ],
)
def test_what_cannot_be_written_leaves_nothing_behind(tmp_path, to, activation, said):
    with pytest.raises(MismatchError, match=said):
        export_sae(make(activation), tmp_path / "out", to)
    assert not (tmp_path / "out").exists()


def test_an_sae_that_normalises_tokens_is_not_written_as_one_that_does_not(tmp_path):
    config = ms.SAEConfig(d_in=D, d_sae=L, activation="topk", k=K, normalisation="unit")
    with pytest.raises(MismatchError, match="normalisation unit"):
        export_sae(ms.SAE(config), tmp_path / "out", "saelens")


def test_a_writer_that_is_wrong_is_found_out(tmp_path, monkeypatch):
    """The heart of it: what was written is read back and must compute the same."""

    def wrong(tensors, path):
        real(tensors | {"b_enc": tensors["b_enc"] + 1e-3}, path)

    real = saelens.save_file
    monkeypatch.setattr(saelens, "save_file", wrong)
    with pytest.raises(OutputError, match="does not compute the same"):
        export_sae(make("relu"), tmp_path, "saelens")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(dictionary_learning.torch, "save", lambda *_: None)
    with pytest.raises(Exception, match=r"ae\.pt"):
        export_sae(make("topk"), tmp_path, "dictionary_learning")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(OutputError, match="holds something else"):
        export_sae(make("relu"), tmp_path, "saelens")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_drawn_probe_has_the_size_of_the_activations():
    sae = make("relu", norm_stats={"mean_norm": 40.0})
    x = drawn_probe(sae)
    assert torch.equal(x, drawn_probe(sae))
    assert float((x - sae.b_dec.detach()).norm(dim=1).mean()) == pytest.approx(40.0, rel=1e-4)


def test_import_shows_at_once_whether_it_fits(tmp_path, store):
    """fvu and l0 of the held-out tokens, against the same sums in fp64."""
    sae = make("relu", site="embed", model=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InteropWarning)
        export_sae(sae, tmp_path / "theirs", "saelens")
        taken = import_sae(tmp_path / "theirs", tmp_path / "ours", store=store)
    x = torch.cat([b.acts for b in store.batches("held_out", 4096)]).double()
    codes = sae.encode(x.float())
    error = (x - sae.decode(codes).double()).square().sum()
    fvu = float(error / (x - x.mean(0)).square().sum())
    assert taken.figures["fvu"] == pytest.approx(fvu, rel=1e-5)
    assert taken.figures["l0"] == pytest.approx(float(codes.l0.double().mean()))
    assert taken.figures["n_tokens"] == len(x)
    assert any("worse than the mean" in line for line in taken.lost) == (fvu >= 1)
    origin = ms.load_sae(tmp_path / "ours").provenance
    assert origin["model"] == store.identity
    assert origin["mask_policy"]["special_ids"]
    assert "model: not named in the file, the store's taken, unverified but for fvu" in taken.lost
    assert stored_probe(tmp_path / "ours") is not None


def test_a_model_of_the_same_name_is_taken_with_a_note(tmp_path, store, capsys):
    """google/tiny and /models/tiny: one line, and from then on the store's hash."""
    name = store.identity["model"]
    export_sae(
        make("relu", site="embed", model={"model": f"owner/{name}"}), tmp_path / "a", "saelens"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        said = ("import", tmp_path / "a", "--store", store.path, "--out", tmp_path / "b", "--json")
        assert run(*said) == 0
    err = capsys.readouterr().err
    assert f"monoscope: note: owner/{name} and {name} are taken for the same model by name" in err
    assert ms.load_sae(tmp_path / "b").provenance["model"] == store.identity


def test_an_import_that_says_nothing_of_where_it_belongs_is_unverified(tmp_path):
    bare = make("relu")
    export_sae(bare, tmp_path / "a", "saelens")
    config = json.loads((tmp_path / "a" / "cfg.json").read_text())
    config["metadata"] = {}
    (tmp_path / "a" / "cfg.json").write_text(json.dumps(config))
    assert import_sae(tmp_path / "a").lost == [
        "model and site: not named in the file, unverified; try --store"
    ]


def test_a_store_of_another_site_is_refused(tmp_path, store):
    export_sae(make("relu"), tmp_path / "a", "saelens")
    with pytest.raises(MismatchError, match="different sites"):
        import_sae(tmp_path / "a", store=store)


def test_exports_are_checked_on_the_probe_that_was_stored(tmp_path, store):
    ms.save_sae(make("relu", site="embed", model=None), tmp_path / "a")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InteropWarning)
        import_sae(tmp_path / "a", tmp_path / "b", store=store)
        told = export(tmp_path / "b", tmp_path / "c", "saelens")
    x = next(store.batches("held_out", 64)).acts.float()
    assert torch.equal(stored_probe(tmp_path / "c"), x)
    assert (told["probe_tokens"], told["exact"]) == (len(x), True)


def test_training_keeps_activations_that_every_copy_is_checked_on(tmp_path, store):
    run = ms.train(store, d_sae=16, k=3, n_tokens=2_000, batch_size=64, out=tmp_path / "a")
    held = read_probe(tmp_path / "a", 16)
    every = torch.cat([b.acts for b in store.batches("train", 4096)]).float()
    assert held.real and len(held.x) == 64
    assert all((every == row).all(1).any() for row in held.x)  # of the store, as they are
    sae = ms.load_sae(tmp_path / "a")
    codes = sae.encode(held.x)
    assert torch.equal(codes.to_dense(), held.codes)
    assert torch.equal(sae.decode(codes), held.x_hat)
    assert torch.equal(run.sae.encode(held.x).to_dense(), held.codes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InteropWarning)
        told = export(tmp_path / "a", tmp_path / "b", "saelens")
    assert told["exact"] and torch.equal(read_probe(tmp_path / "b", 16).x, held.x)


def test_import_shows_fvu_and_l0_on_the_activations_that_came_along(tmp_path, store, capsys):
    ms.train(store, d_sae=16, k=3, n_tokens=2_000, batch_size=64, out=tmp_path / "a")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InteropWarning)
        export(tmp_path / "a", tmp_path / "b", "saelens")
        taken = import_sae(tmp_path / "b", tmp_path / "c")
    held = read_probe(tmp_path / "b", 16)
    x, x_hat = held.x.double(), held.x_hat.double()
    fvu = float((x - x_hat).square().sum() / (x - x.mean(0)).square().sum())
    assert taken.figures["fvu"] == pytest.approx(fvu, rel=1e-6)
    assert taken.figures["n_tokens"] == 64 and not taken.lost
    assert read_probe(tmp_path / "c", 16).real
    # the same file with a normalisation that is not what it was trained with is seen at once
    config = json.loads((tmp_path / "b" / "cfg.json").read_text())
    config["normalize_activations"] = "layer_norm"
    (tmp_path / "b" / "cfg.json").write_text(json.dumps(config))
    assert run("import", tmp_path / "b", "--out", tmp_path / "d", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert any("does not compute what is stored" in line for line in told["lost"])
    assert "fvu" not in told


def test_activations_drawn_from_the_decoder_give_no_fvu(tmp_path):
    """They are sums of its own rows, so the figure would flatter or slander it."""
    export_sae(make("relu"), tmp_path / "a", "saelens")
    assert not read_probe(tmp_path / "a", L).real
    taken = import_sae(tmp_path / "a", tmp_path / "b")
    assert taken.figures == {} and not taken.lost
    assert read_probe(tmp_path / "b", L) is None
    (tmp_path / "a" / "probe.safetensors").write_bytes(b"cut short")
    with pytest.raises(FormatError, match=r"probe\.safetensors.*Delete it"):
        import_sae(tmp_path / "a")


def test_unknown_and_incomplete_requests(tmp_path):
    ms.save_sae(make("relu"), tmp_path / "a")
    with pytest.raises(ConfigError, match="Did you mean neuronpedia"):
        export(tmp_path / "a", tmp_path / "b", "neuropedia")
    with pytest.raises(ConfigError, match="--atlas"):
        export(tmp_path / "a", tmp_path / "b", "neuronpedia")


def run(*args: object) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in args])
    return int(left.value.code or 0)


def test_the_verbs(tmp_path, capsys):
    ms.save_sae(make("topk"), tmp_path / "sae")
    assert (
        run("export", tmp_path / "sae", "--to", "sparsify", "--out", tmp_path / "x", "--json") == 0
    )
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert told["exact"] is True and len(told["lost"]) == 2
    assert said.err.count("not carried: ") == 2
    assert run("import", tmp_path / "x", "--out", tmp_path / "y", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["format"], told["k"], told["d_sae"]) == ("sparsify", K, L)
    assert run("export", tmp_path / "sae", "--to", "gemma", "--out", tmp_path / "z") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_hub_folder_has_a_card_and_loads(tmp_path):
    ms.save_sae(make("batchtopk", model={"model": "openai-community/gpt2"}), tmp_path / "sae")
    export(tmp_path / "sae", tmp_path / "hub", "hub")
    card = (tmp_path / "hub" / "README.md").read_text()
    head = card.split("---")[1]
    assert "base_model: openai-community/gpt2" in head and "library_name: saelens" in head
    assert "resid_post.2" in card and "batchtopk, k 4" in card
    assert same(ms.load_sae(tmp_path / "hub"), make("batchtopk"))


@pytest.mark.parametrize("activation", ["relu", "topk", "gated"])
def test_saebenchs_object(activation):
    sae = make(activation)
    with torch.no_grad():
        sae.W_dec.mul_(torch.linspace(0.5, 3, L)[:, None])
        sae.W_dec[1] = 0
    bench, x = saebench(sae), torch.randn(3, 7, D)
    assert bench.check_decoder_norms()
    codes = bench.encode(x)
    assert codes.shape == (3, 7, L)
    truth = sae.decode(sae.encode(x.reshape(-1, D))).reshape(x.shape)
    torch.testing.assert_close(bench(x), truth, rtol=1e-5, atol=1e-5)
    assert (bench.W_enc.shape, bench.W_dec.shape) == ((D, L), (L, D))
    assert (bench.cfg.hook_name, bench.cfg.hook_layer) == ("blocks.2.hook_resid_post", 2)
    assert json.loads(json.dumps(bench.cfg.to_dict()))["d_sae"] == L
    half = saebench(make(activation)).to(dtype=torch.bfloat16)
    assert half(x.bfloat16()).dtype == half.dtype == torch.bfloat16


def test_saebench_asks_where_an_sae_belongs():
    with pytest.raises(MismatchError, match="hook_name"):
        saebench(make("relu", site="mlp_in.2"))
    named = saebench(make("relu", site="mlp_in.2"), hook_name="blocks.2.hook_mlp_in")
    assert named.cfg.hook_layer == 2


def test_paths_and_strings_both_name_places(tmp_path: Path):
    export_sae(make("relu"), str(tmp_path / "a"), "saelens")
    assert same(ms.load_sae(str(tmp_path / "a")), make("relu"))
