"""Compiles every Triton kernel for a Hopper GPU, which needs none; prints what it compiled."""

from __future__ import annotations

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from monoscope.ops import triton_kernels as kernels

F, J, L, N = "*fp32", "*i32", "*i64", "i32"  # pointers, and a whole number
ENTRIES = {"starts": L, "order": L, "token": L, "coefficients": F, "g": F}
FOUND = {"counts": J, "found": J}
ROWS = {"indices": J, "values": F, "offsets": L, "w": F, "out": F, "width": N, "n_latents": N}
DOTS = {"g": F, "indices": J, "offsets": L, "w": F, "out": F, "width": N, "n_latents": N}
SUMS = {**ENTRIES, "out": F, "width": N}
ADAM = {**ENTRIES, "dense": F, "w": F, "m": F, "v": F, "constants": F, "width": N}
NEAR = {"z": "*bf16", "margins": F, **FOUND, "n_latents": N, "k": N, "room": N, "floor": "fp32"}
EXACT = {"x": F, "w": F, "b": F, **FOUND, "values": F, "width": N, "room": N}
CHOOSE = {"found": J, "values": F, "counts": J, "indices": J, "chosen": F, "k": N, "room": N,
          "n_latents": N}  # fmt: skip

# Sizes of D 2304, 65,536 latents, k 64, AuxK's 1024; numbers equal to 1 are constants.
CASES = [
    (kernels.decode_kernel, ROWS, {"BLOCK_D": 1024}, 4),
    (kernels.decode_kernel, ROWS, {"BLOCK_D": 1, "width": 1, "n_latents": 1}, 4),
    (kernels.entry_dots_kernel, DOTS, {"BLOCK_D": 1024}, 4),
    (kernels.entry_dots_kernel, DOTS, {"BLOCK_D": 1, "width": 1, "n_latents": 1}, 4),
    (kernels.row_sums_kernel, SUMS, {"BLOCK_D": 1024}, 4),
    *(
        (kernels.adam_rows_kernel, ADAM, {"HAS_DENSE": d, "UNIT": u, "BLOCK_D": 4096}, 4)
        for d in (False, True) for u in (False, True)
    ),
    *(
        (kernels.candidates_kernel, NEAR, {"GROUPS": 2048, "BISECTIONS": 12, "FIND_KTH": f}, 4)
        for f in (False, True)
    ),
    (kernels.candidates_kernel, NEAR,
     {"GROUPS": 16, "BISECTIONS": 12, "FIND_KTH": True, "n_latents": 1, "room": 1}, 4),
    (kernels.exact_kernel, EXACT, {"BLOCK_D": 1024}, 4),
    (kernels.choose_kernel, CHOOSE, {"ROOM": 2048}, 4),
    (kernels.choose_kernel, CHOOSE, {"ROOM": 8192}, 16),
    (kernels.choose_kernel, CHOOSE, {"ROOM": 16, "k": 1}, 4),
]  # fmt: skip


def main() -> None:
    for kernel, signature, constants, warps in CASES:
        types = signature | dict.fromkeys(constants, "constexpr")
        made = triton.compile(
            ASTSource(fn=kernel, signature=types, constexprs=constants),
            target=GPUTarget("cuda", 90, 32), options={"num_warps": warps},
        )  # fmt: skip
        assert len(made.asm["cubin"]) > 0
        print(kernel.__name__)


if __name__ == "__main__":
    main()
