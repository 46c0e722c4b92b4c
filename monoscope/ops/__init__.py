"""Pure tensor functions: sparse codes, selections, sparse decode and its gradients.

`backend(tensor)` and `make_encoder` say which implementation serves a tensor: the numba loops of
cpu.py for float32 on the CPU, the Triton kernels of cuda.py for float32 on an NVIDIA GPU, the plain
torch reference for everything else (fp64 checks, other devices).
"""

from __future__ import annotations

from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor

from monoscope.ops.codes import SparseCodes
from monoscope.ops.select import Encoder

__all__ = ["SparseCodes", "backend", "fast_path", "make_encoder"]

GPU_PATH = (
    "monoscope.ops.cuda (Triton): checked in Triton's interpreter and by its compiler, without a "
    "GPU; its speed, and a run on a GPU, are unmeasured"
)


def fast_path(tensor: Tensor) -> str | None:
    """Which fast path serves `tensor`, cpu or cuda: float32 only, and on a GPU with Triton."""
    if tensor.dtype != torch.float32:
        return None
    if tensor.device.type == "cuda":
        return "cuda" if find_spec("triton") is not None else None
    return "cpu" if tensor.device.type == "cpu" else None


def backend(tensor: Tensor, codes: SparseCodes | None = None) -> ModuleType:
    """The module whose decode, entry_dots and row_sums serve `tensor`, with codes such as these."""
    path = fast_path(tensor)
    if codes is not None and codes.padded and path != "cuda":
        from monoscope.ops import fixed

        return fixed
    if path == "cpu":
        from monoscope.ops import cpu  # numba compiles on import: only when it is used

        return cpu
    if path == "cuda":
        from monoscope.ops import cuda

        return cuda
    from monoscope.ops import decode

    return decode


def make_encoder(w_enc: Tensor, b_enc: Tensor) -> Encoder:
    """The selections over these weights, on the fast path where there is one."""
    path = fast_path(w_enc)
    if path == "cpu":
        from monoscope.ops.cpu_select import Bf16Encoder

        return Bf16Encoder(w_enc, b_enc)
    if path == "cuda":
        from monoscope.ops.cuda import CudaEncoder

        return CudaEncoder(w_enc, b_enc)
    return Encoder(w_enc, b_enc)
