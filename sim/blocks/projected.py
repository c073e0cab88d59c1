"""GaLore and APOLLO: AdamW of the layers' matrices in a space of low rank, of all else AdamW's.

A matrix of m rows and n columns, m the fewer, whose gradient is projected onto r of m directions:
two moments of r x n and the m x r projector are its states. GaLore takes the directions from an SVD
every so many steps, 200 by default, and projects the step back; APOLLO draws them, and scales the
gradient's columns by how AdamW would scale the projected ones.

Source: galore_torch 1.0 (adamw.py, galore_projector.py, ``proj_type="std"``), apollo_torch 1.0
(apollo.py, ``scale_type="channel"``); GaLore, arXiv 2403.03507; APOLLO, arXiv 2412.05270.
"""

from __future__ import annotations

from sim.blocks.kernels import Kernel
from sim.blocks.muon import Trained
from sim.records import NamedTuple

#: kernels of the step of a matrix beside its products: moments, root, quotient; then the update
_MOMENTS, _BACK, _SCALED = 7, 2, 6
_FP32 = 4.0


class Projection(NamedTuple):
    """How matrices are stepped.

    Attributes
    ----------
    rank : int
        Directions at most. [1]
    turns_back : bool
        The step is projected back (GaLore); else it is the gradient, scaled (APOLLO).
    parameter, gradient, moment : float
        Size of an element of each. [B]
    """

    rank: int
    turns_back: bool
    parameter: float
    gradient: float
    moment: float

    def state_bytes(self, found: Trained) -> float:
        """Moments and projectors of all matrices. [B]"""
        total = 0.0
        for (m, n), count in found.matrices:
            r = min(self.rank, m)
            total += count * (2 * self.moment * r * n + self.parameter * r * m)
        return total

    def scratch_bytes(self, found: Trained) -> float:
        """Most that a step of a matrix allocates and frees again. [B]

        Its projection, root and quotient; the step twice, before and after a factor; or, where
        directions are taken anew, the matrix in fp32 and what the SVD makes of it (its own
        workspace is not counted).
        """
        most = 0.0
        for (m, n), _ in found.matrices:
            r = min(self.rank, m)
            step = (self.gradient + 2 * self.moment) * r * n + 2 * self.gradient * m * n
            svd = _FP32 * (2 * m * n + m * m) if self.turns_back else 0.0
            most = max(most, step, svd)
        return most

    def kernels(self, found: Trained, times: float, dtype: str) -> tuple[Kernel, ...]:
        """The step of the layers' matrices, SVDs left out.

        Parameters
        ----------
        found : Trained
            The model's.
        times : float
            Matrices over those of the model. [1]
        dtype : str
            In which gradients are multiplied.
        """
        g, products, moved, tensors = self.gradient, [], 0.0, 0
        small = _MOMENTS + (_BACK if self.turns_back else _SCALED)
        for m, n, count in found.shared(times):
            tensors += count
            r = min(self.rank, m)
            shapes = [("down", (r, n, m)), ("up", (m, n, r))]
            for name, (a, b, c) in shapes[: 1 + self.turns_back]:
                traffic = g * (a * b + a * c + b * c)
                products.append(
                    Kernel(f"projected.{name}", "", "gemm", 2.0 * m * n * r * count,
                           traffic * count, (a, b, c, 1), dtype, launches=count)
                )  # fmt: skip
            # the moments as AdamW's, pass by pass; the update, scaled, and added to the weights
            moved += count * (15 * self.moment + 2 * g) * r * n
            passes = 2 * g if self.turns_back else 7 * g + g * r / m
            moved += count * (passes + 2 * self.parameter + g) * m * n
        if not tensors:
            return ()
        return (
            *products,
            Kernel("projected.step", "", "optimizer", bytes=moved, dtype="fp32",
                   launches=small * tensors, access="multi"),
        )  # fmt: skip
