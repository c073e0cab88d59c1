"""What each optimizer keeps, moves and allocates: the one description that all others read."""

from __future__ import annotations

from dataclasses import replace

from sim.blocks.projected import Projection
from sim.inputs.workload import Workload
from sim.records import dataclass
from sim.units import DTYPE_BYTES

FP32 = DTYPE_BYTES["fp32"]


@dataclass(frozen=True, slots=True)
class Optimizer:
    """An optimizer, for one trainable element unless said otherwise.

    Attributes
    ----------
    moment_bytes : float or None
        Of one running mean, the scales of a quantised one included; None: of the parameter's dtype,
        as torch.optim makes them (``zeros_like``). [B]
    moments : int
        Running means an element.
    factored : bool
        The second moment of a matrix is a row and a column vector, fp32.
    counter_bytes : float
        A step counter, per tensor. On the GPU only where one kernel reads it. [B]
    passes : int
        Kernels that one tensor takes where the step is not one kernel; 0 where it always is.
    listed : bool
        Tensors are updated many at a time, by multi-tensor kernels.
    orthogonal : bool
        All this is of the layers' matrices, of which Newton and Schulz's iteration makes the step
        (`sim.blocks.muon`); all else is stepped by `rest`.
    projected : str
        So it is of those whose gradients are projected (`sim.blocks.projected`), onto directions of
        an ``svd`` or ``random`` ones.
    rest : str
        Another optimizer.
    """

    moment_bytes: float | None = None
    moments: int = 0
    factored: bool = False
    counter_bytes: float = 0.0
    passes: int = 0
    listed: bool = True
    orthogonal: bool = False
    projected: str = ""
    rest: str = "adamw"

    @property
    def by_matrix(self) -> bool:
        """Whether it steps the layers' matrices one after another, and `rest` all else."""
        return self.orthogonal or bool(self.projected)

    def one_kernel(self, implementation: str) -> bool:
        """Whether a step is one kernel; nobody fuses Adafactor."""
        return not self.passes or (implementation == "fused" and not self.factored)

    def moment(self, parameter: float) -> float:
        """Size of one running mean of a parameter element of so many bytes. [B]"""
        return parameter if self.moment_bytes is None else self.moment_bytes

    def state_bytes(
        self, implementation: str, parameter: float, elements: float, tensors: int, factors: float
    ) -> float:
        """States of so many elements in so many tensors. [B]

        Parameters
        ----------
        implementation : str
            ``foreach``, ``fused`` or ``for-loop``.
        parameter : float
            Size of a parameter element. [B]
        elements : float
            Trainable elements.
        tensors : int
            Tensors they lie in.
        factors : float
            Elements of the row and column vectors of all matrices, and of all vectors.
        """
        states = self.moments * self.moment(parameter) * elements
        if self.factored:
            states += FP32 * factors
        counters = self.counter_bytes * tensors if self.one_kernel(implementation) else 0.0
        return states + counters

    def step_bytes(self, parameter: float, gradient: float) -> float:
        """Traffic of a step in one kernel: all read, all but the gradient written. [B]"""
        if self.factored:  # squares, two factored means, the outer product, rms, update
            return 2 * parameter + 6 * gradient + 4 * FP32
        return 2 * parameter + gradient + 2 * self.moments * self.moment(parameter)

    def unfused_bytes(self, parameter: float, gradient: float) -> float:
        """Traffic of Adam's step pass by pass, as foreach and for-loop run it. [B]

        Decay p; lerp m; mul v; addcmul v; sqrt; div; add; addcdiv p: what each reads and writes.
        """
        state = self.moment(parameter)
        return 4 * parameter + 2 * gradient + 14 * state

    def scratch_bytes(
        self, implementation: str, parameter: float, elements: float, largest: float
    ) -> float:
        """What a step allocates and frees again. [B]

        foreach holds the square root of all second moments at once; a loop that of one tensor,
        twice, and the one before. Recorded in ``tests/data/optimizer_memory.json``.
        """
        if self.one_kernel(implementation):
            return 0.0
        if self.factored:
            return 2 * FP32 * largest
        size = self.moment(parameter)
        return 3 * size * largest if implementation == "for-loop" else size * elements


#: 8-bit: a byte a state and an fp32 scale per block of 256. SGD without momentum.
#: Source: torch.optim.AdamW, Adafactor and Muon; bitsandbytes' and torchao's 8-bit AdamW,
#: bitsandbytes' Lion, which counts steps on the host.
OPTIMIZERS = {
    "adamw": Optimizer(None, 2, counter_bytes=FP32, passes=8),
    "adamw-bf16": Optimizer(DTYPE_BYTES["bf16"], 2, counter_bytes=FP32, passes=8),
    "adamw-8bit": Optimizer(1.0 + FP32 / 256, 2, counter_bytes=FP32, listed=False),
    "adafactor": Optimizer(factored=True, counter_bytes=FP32, passes=14, listed=False),
    "sgd": Optimizer(),
    "lion": Optimizer(FP32, 1, listed=False),
    "lion-8bit": Optimizer(1.0 + FP32 / 256, 1, listed=False),
    "muon": Optimizer(None, 1, orthogonal=True),
    "galore": Optimizer(None, 2, projected="svd"),
    "galore-8bit": Optimizer(1.0 + FP32 / 256, 2, projected="svd", rest="adamw-8bit"),
    "apollo": Optimizer(None, 2, projected="random"),
}


def projection_of(workload: Workload, parameter: float, gradient: float) -> Projection:
    """How GaLore or APOLLO steps a job's matrices, whose elements have these sizes. [B]"""
    kind = optimizer_of(workload)
    back = kind.projected == "svd"
    size = kind.moment(parameter)
    return Projection(workload.optimizer_rank, back, parameter, gradient, size)


def optimizer_of(workload: Workload) -> Optimizer:
    """The optimizer that a job runs.

    Notes
    -----
    bitsandbytes, whose states are the paged ones, makes those that are not quantised in fp32,
    whatever the parameter's dtype. Source: bitsandbytes, optim/optimizer.py, `init_state`.
    """
    kind = OPTIMIZERS[workload.optimizer]
    if workload.optimizer_paged and kind.moment_bytes is None:
        return replace(kind, moment_bytes=FP32)
    return kind
