"""Muon: the layers' matrices take a step of their momentum made orthogonal, all else AdamW's.

Source: torch.optim.Muon (PyTorch 2.13, ``torch/optim/_muon.py``), whose steps are those of Jordan
et al. 2024 and, but for the rate, of Moonlight (arXiv 2502.16982): 5 iterations of Newton and
Schulz in bf16, a matrix after another.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

from sim.blocks.kernels import Kernel
from sim.blocks.parameters import build_tree
from sim.inputs.method import Method
from sim.inputs.model import Model
from sim.records import NamedTuple
from sim.units import DTYPE_BYTES

ITERATIONS = 5
_HALF = DTYPE_BYTES["bf16"]
#: of a matrix but its products: lerp_, lerp, cast, norm, clamp, div_, mul_, add_, and twice an
#: iteration what `addmm` copies before it adds
_SMALL, _COPIES = 8, 2 * ITERATIONS


class Trained(NamedTuple):
    """Trained parameters as Muon tells them apart.

    Attributes
    ----------
    matrices : tuple of ((int, int), int)
        Rows and columns of the layers' matrices, fewer rows than columns, and how many there are.
    vectors : int
        Elements of all else in the layers. [1]
    vector_tensors : int
        Tensors they lie in. [1]
    ends : int
        Elements of embedding and head. [1]
    end_tensors : int
        Tensors they lie in. [1]
    largest_beside : int
        Elements of the largest tensor that AdamW steps. [1]
    """

    matrices: tuple[tuple[tuple[int, int], int], ...]
    vectors: int
    vector_tensors: int
    ends: int
    end_tensors: int
    largest_beside: int

    @property
    def in_matrices(self) -> int:
        """Elements of the layers' matrices. [1]"""
        return sum(m * n * count for (m, n), count in self.matrices)

    @property
    def beside(self) -> int:
        """Elements that AdamW steps. [1]"""
        return self.vectors + self.ends

    def layers_over(self, elements: float) -> float:
        """Layers in so many elements, over the model's: those there may stand for more. [1]"""
        layers = self.in_matrices + self.vectors
        return (elements - self.ends) / layers if layers else 1.0

    def shared(self, times: float) -> list[tuple[int, int, int]]:
        """Matrices of a rank with so many times the model's: both sizes, and how many. [1]"""
        return [(m, n, round(times * count)) for (m, n), count in self.matrices]

    def scratch_bytes(self, parameter: float) -> float:
        """Most that a step of a matrix allocates and frees again. [B]

        Its momentum as looked ahead to, that in bf16 before and after an iteration, and the two
        squares of one. Recorded in ``tests/data/optimizer_memory.json``.
        """
        sizes = ((parameter + 2 * _HALF) * m * n + 2 * _HALF * m * m for (m, n), _ in self.matrices)
        return max(sizes, default=0.0)


@lru_cache(maxsize=64)
def trained(model: Model, method: Method) -> Trained:
    """What of a model under a method Muon steps, and what AdamW."""
    tree = build_tree(model, method)
    matrices: Counter[tuple[int, int]] = Counter()
    vectors = []
    for block in tree.layers:
        for module in block.modules:
            for parameter in module.parameters:
                if parameter.trainable and len(parameter.shape) == 2:
                    m, n = sorted(parameter.shape)
                    matrices[m, n] += 1
                elif parameter.trainable:
                    vectors.append(parameter.numel)
    ends = [
        parameter.numel
        for block in (tree.embedding, tree.head)
        for module in block.modules
        for parameter in module.parameters
        if parameter.trainable
    ]
    return Trained(
        tuple(matrices.items()), sum(vectors), len(vectors), sum(ends), len(ends),
        max((*vectors, *ends), default=0),
    )  # fmt: skip


def muon_kernels(
    found: Trained, times: float, parameter: float, gradient: float
) -> tuple[Kernel, ...]:
    """The step of the layers' matrices.

    Parameters
    ----------
    found : Trained
        The model's.
    times : float
        Matrices over those of the model. [1]
    parameter, gradient : float
        Size of an element of each. [B]
    """
    # momentum, looked ahead to, cast, normed, divided; decayed and moved
    each = 6 * gradient + (gradient + _HALF) + _HALF + 2 * _HALF + 4 * parameter + _HALF
    kernels, moved, copied, tensors = [], 0.0, 0.0, 0
    for m, n, count in found.shared(times):
        tensors += count
        moved += count * each * m * n
        copied += count * ITERATIONS * 2 * _HALF * (m * n + m * m)
        for name, shape in (("gram", (m, m, n)), ("square", (m, m, m)), ("turn", (m, n, m))):
            kernels.append(_products(f"muon.{name}", shape, ITERATIONS * count))
    kernels.append(
        Kernel("muon.momentum", "", "optimizer", bytes=moved, dtype="fp32",
               launches=max(1, _SMALL * tensors), access="multi")
    )  # fmt: skip
    kernels.append(
        Kernel("muon.copy", "", "copy", bytes=copied, launches=max(1, _COPIES * tensors),
               access="copy")
    )  # fmt: skip
    return tuple(kernels) if tensors else ()


def _products(name: str, shape: tuple[int, int, int], launches: int) -> Kernel:
    m, n, k = shape
    flops, traffic = 2.0 * m * n * k, float(_HALF * (m * n + m * k + n * k))
    return Kernel(
        name, "", "gemm", flops * launches, traffic * launches, (*shape, 1), launches=launches
    )
