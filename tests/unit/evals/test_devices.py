"""The SAE on another device than data and model: nothing mixes, though there is no GPU here."""

from __future__ import annotations

import copy
import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

from monoscope.evals import features, letters, matching, stability, suite
from monoscope.evals.material import Material, Sizes, mean_l0
from monoscope.sae import SAEConfig

FAR, NEAR = torch.device("cuda", 0), torch.device("cpu")
INDEXING = (Tensor.__getitem__, Tensor.__setitem__)


def is_far(x: object) -> bool:
    return getattr(x, "far", False)


class TwoDevices(TorchFunctionMode):
    """Tensors carry a mark that says where they are; `.to` moves it, and what mixes is refused."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func == Tensor.device.__get__:
            return FAR if is_far(args[0]) else NEAR
        held = [a for a in tree_flatten((args, kwargs))[0] if isinstance(a, Tensor)]
        far = any(is_far(t) for t in held)
        if func in (Tensor.numpy, Tensor.__array__) and far:
            raise RuntimeError("numpy reads no far tensor")
        place = kwargs.pop("device", None)
        if func is Tensor.cpu:
            place = NEAR
        if func is Tensor.to:
            like = [a for a in args[1:] if isinstance(a, Tensor)]
            named = [a for a in args[1:] if isinstance(a, str | torch.device)]
            args = tuple(a for a in args if not isinstance(a, str | torch.device))
            place = FAR if any(map(is_far, like)) else NEAR if like else (named or [place])[0]
            out = args[0].clone() if len(args) == 1 and not kwargs else func(*args, **kwargs)
        else:
            mixed = [t for t in held if t.ndim and is_far(t) != far]
            if mixed and not (func in INDEXING and is_far(args[0])):
                raise RuntimeError(f"{func} of tensors on two devices")
            out = func(*args, **kwargs)
        if place is not None:
            far = torch.device(place).type == FAR.type

        def mark(t: object) -> object:
            if isinstance(t, Tensor) and is_far(t) != far:
                t = t.clone() if place is NEAR else t
                t.far = far
            return t

        return tree_map(mark, out)


@pytest.fixture
def far_sae(make):
    sae = make.sae(d_sae=30, k=4)
    sae.config = SAEConfig(d_in=make.d_in, d_sae=30, activation="topk", k=4)
    sae.b_enc = torch.zeros(30)
    for name in ("W_enc", "W_dec", "b_dec", "b_enc"):
        moved = getattr(sae, name).clone()
        moved.far = True
        setattr(sae, name, moved)
    sae.threshold = None
    return sae


@pytest.fixture
def material(store, far_sae, lm):
    store = copy.deepcopy(store)
    for i, doc in store.docs.items():
        store.docs[i] = dataclasses.replace(doc, meta={"lang": "en" if i % 3 else "fr"})
    store.manifest.shards = [SimpleNamespace(sha256="s", docs_sha256="d")]
    store.manifest.corpus = {"name": "random"}
    sizes = Sizes(splice_tokens=60, slice_tokens=None, dead_tokens=50, corpus_docs=30)
    return Material(sae=far_sae, store=store, sizes=sizes, bootstrap=10)


def test_the_double_of_a_gpu_is_as_strict_as_one(far_sae):
    near = torch.ones(2, far_sae.config.d_in)
    with TwoDevices():
        assert far_sae.W_dec.device == FAR and near.to(FAR).device == FAR
        assert (near.to(FAR) * 2).cpu().device == NEAR
        for wrong in (
            lambda: near @ far_sae.W_dec.T,
            lambda: far_sae.encode(near),
            lambda: far_sae.W_dec.numpy(),
            lambda: near[(far_sae.W_dec[:2, 0] > 0)],
        ):
            with pytest.raises(RuntimeError, match=r"two devices|no far tensor"):
                wrong()


def test_the_core_suite(material, lm):
    near = dataclasses.replace(material, sae=copy.deepcopy(material.sae))
    for name in ("W_enc", "W_dec", "b_dec", "b_enc"):
        getattr(near.sae, name).far = False
    expected = suite.run_suite(near, "core", clock=lambda: 0)
    with TwoDevices():
        found = suite.run_suite(material, "core", clock=lambda: 0)
    assert found["eval_result_metrics"] == expected["eval_result_metrics"]
    assert found["eval_result_unstructured"] == expected["eval_result_unstructured"]


def test_pooling_matching_and_mean_l0(material):
    with TwoDevices():
        pooled, _ = features.pool_stored(material, "held_out", 20)
        assert pooled.by_basis["sae"].shape[1] == 30
        rows = material.sae.W_dec.cpu()
        for a, b in ((rows, material.sae.W_dec), (material.sae.W_dec, rows)):
            assert matching.matched(a, b)[0].tolist() == list(range(30))
            assert matching.nearest(a, b)[0].tolist() == list(range(30))
        assert mean_l0(material.sae, material.sample) == material.l0
        other = dataclasses.replace(material, others=(material.sae,))
        assert stability.run(other)["given_against_them"]["cosine"] == pytest.approx(1, abs=1e-6)


def test_letters(material, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, material.store.d_in, generator=generator)
    words = letters.Words((x[:, 0] > 0).numpy().astype(int), x)
    monkeypatch.setattr(letters, "collect", lambda material: words)
    with TwoDevices():
        assert letters.run(material)["n_letters"] == 2
