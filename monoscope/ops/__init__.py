"""Pure tensor functions: sparse codes, selections, sparse decode and its gradients.

`backend(tensor)` and `make_encoder` say which implementation serves a tensor: the numba loops of
cpu.py for float32 on the CPU, the plain torch reference for everything else (fp64 checks, other
devices).
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from monoscope.ops.codes import SparseCodes
from monoscope.ops.select import Encoder

__all__ = ["SparseCodes", "backend", "make_encoder"]


def _has_fast_path(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32


def backend(tensor: Tensor) -> ModuleType:
    """The module whose decode, entry_dots and row_sums serve `tensor`."""
    if _has_fast_path(tensor):
        from monoscope.ops import cpu  # numba compiles on import: only when it is used

        return cpu
    from monoscope.ops import decode

    return decode


def make_encoder(w_enc: Tensor, b_enc: Tensor) -> Encoder:
    """The selections over these weights, on the fast path where there is one."""
    if _has_fast_path(w_enc):
        from monoscope.ops.cpu_select import Bf16Encoder

        return Bf16Encoder(w_enc, b_enc)
    return Encoder(w_enc, b_enc)
