"""MaskPolicy keeps exactly the tokens it says it keeps."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from monoscope.data.masking import MaskPolicy
from monoscope.errors import ConfigError


def sample(dtype=torch.float32):
    draw = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 6, (5, 7), generator=draw)
    mask = torch.rand(5, 7, generator=draw) < 0.8
    x = (torch.randn(5, 7, 3, generator=draw) * 4).to(dtype)
    return ids, mask, x


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("special", [(), (2,), (0, 5)])
@pytest.mark.parametrize("max_norm", [None, 6.0])
def test_keeps_what_is_real_not_special_and_no_sink(dtype, special, max_norm):
    ids, mask, x = sample(dtype)
    kept = MaskPolicy(special, max_norm=max_norm).keep(ids, mask, x)
    assert kept.shape == (5, 7)
    assert kept.dtype == torch.bool
    for b in range(5):
        for s in range(7):
            norm = math.sqrt(sum(v * v for v in x[b, s].double().tolist()))
            sink = max_norm is not None and norm > max_norm
            assert bool(kept[b, s]) == (
                bool(mask[b, s]) and int(ids[b, s]) not in special and not sink
            )
    assert kept.any()
    assert not kept.all()


def test_a_norm_equal_to_the_limit_is_kept_and_the_input_is_not_changed():
    x = torch.tensor([[[3.0, 4.0], [3.0, 4.001]]])
    ids, mask = torch.tensor([[1, 1]]), torch.tensor([[True, True]])
    copies = x.clone(), ids.clone(), mask.clone()
    assert MaskPolicy((), max_norm=5.0).keep(ids, mask, x).tolist() == [[True, False]]
    assert torch.equal(x, copies[0])
    assert torch.equal(ids, copies[1])
    assert torch.equal(mask, copies[2])


def test_the_limit_is_measured_from_the_median():
    policy = MaskPolicy((1,), sink_ratio=3.0).measured(torch.tensor([1.0, 900.0, 2.0]))
    assert policy == MaskPolicy((1,), sink_ratio=3.0, max_norm=6.0)


def test_it_goes_through_json_and_cannot_be_changed():
    policy = MaskPolicy((5, 1, 1), sink_ratio=4.0, max_norm=1 / 3)
    assert policy.special_ids == (1, 5)
    assert MaskPolicy.from_dict(json.loads(json.dumps(policy.to_dict()))) == policy
    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.max_norm = 1.0


@pytest.mark.parametrize("ratio", [0.0, -1.0, math.nan, math.inf])
def test_a_senseless_ratio_is_refused(ratio):
    with pytest.raises(ConfigError, match="sink_ratio"):
        MaskPolicy((), sink_ratio=ratio)
