"""A tape on which a block's description plays its modules and operations, in forward order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from sim.blocks.kernels import Kernel
from sim.blocks.modules import Module, OpRole, Parameter, Position
from sim.blocks.ops import Description, Exchange, Map, Op
from sim.blocks.setting import Setting
from sim.units import DTYPE_BYTES


@dataclass(slots=True)
class Tape:
    """What has been played so far; tensor 0 is the block's input.

    Attributes
    ----------
    setting : Setting
        Sizes and stack.
    fused : bool
        A compiler merges neighbouring element-wise kernels.
    module : str
        The base module whose operations are being played.
    kept : dict of int to int
        Of a tensor that backward makes again: what is kept in its place.
    cut : dict of str to int
        Pieces that a product to come is cut into, by the name of its kernel.
    """

    setting: Setting
    fused: bool
    module: str = ""
    modules: list[Module] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)
    kept: dict[int, int] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    apart: int = 1  # products of a batch, and kernels between them, run so many times on a part
    singly: bool = False  # products of a batch run one after another, nothing else does
    learns: bool = True  # parts that a partly frozen model trains are trained in this block
    column: float = field(init=False)  # bytes of an activation a column, all tokens
    stream_column: float = field(init=False)  # the same in the residual stream

    def __post_init__(self) -> None:
        """Work out once what every operation asks for."""
        self.column = self.setting.element * self.setting.tokens
        self.stream_column = self.setting.element * self.setting.stream_tokens

    @contextmanager
    def of_stream(self) -> Iterator[None]:
        """Inside, everything is of the positions of the residual stream that this rank holds."""
        whole, column = self.setting, self.column
        self.setting = replace(
            whole, tokens=whole.stream_tokens, tensor=1, sequence_parallel=False, tensor_style=""
        )
        self.column = self.stream_column
        yield
        self.setting, self.column = whole, column

    @contextmanager
    def training(self, part: str) -> Iterator[None]:
        """Inside, parameters have gradients where the method trains this part of the block."""
        whole = self.setting
        if self.learns:
            self.setting = whole.trains(part)
        yield
        self.setting = whole

    def size(self, width: float) -> float:
        """Bytes of an activation of so many columns."""
        return self.column * width

    def stream(self, width: float) -> float:
        """Bytes of a tensor of the residual stream, which sequence parallelism splits."""
        return self.stream_column * width

    def tensor(self, size: float) -> int:
        """A new tensor of so many bytes."""
        self.sizes.append(size)
        return len(self.sizes) - 1

    def register(
        self,
        name: str,
        role: OpRole,
        place: Position,
        parameters: Iterable[tuple[str, tuple[int, ...]]],
        *,
        base: str = "",
        active: float = 1.0,
        partial: bool = False,
        calls: int = 1,
        expert: bool = False,
    ) -> str:
        """Add a module of (name, shape) parameters; what is no adapter gets the ops that follow."""
        trained = bool(base) or not self.setting.frozen
        own = tuple([_new(Parameter, (n, shape, trained)) for n, shape in parameters])
        self.modules.append(
            _new(Module, (name, own, role, place, base, active, partial, calls, expert))
        )
        self.order.append(name)
        if not base:
            self.module = name
        return name

    def by_norm(self, tensor: int) -> bool:
        """Whether a norm made a tensor."""
        return any(op.makes == tensor and op.role is OpRole.NORM for op in self.ops)

    def part(self, name: str) -> None:
        """What follows stands apart from the last module, so that exchanges can be around it."""
        self.order.append(name)
        self.module = name

    def op(
        self,
        name: str,
        reads: tuple[int, ...],
        size: float,
        saves: tuple[int, ...] = (),
        forward: Sequence[Map | Kernel] = (),
        backward: Sequence[Map | Kernel] = (),
        *,
        module: str = "",
        role: OpRole = OpRole.OTHER,
        own: bool = False,
        flops: float = 0.0,
        gradients: int = 0,
        weight_gradient: float = 0.0,
        product: bool = False,
        kept_by_policy: bool = False,
        passes: bool = False,
        scratch: float = 0.0,
        backward_scratch: float = 0.0,
        extra: float = 0.0,
        exchanges: tuple[Exchange, ...] = (),
        weight: str = "",
        dispatched: bool = True,
    ) -> int:
        """Append an operation, which saves its `own` output too or not. Returns that tensor."""
        out = len(self.sizes)
        self.sizes.append(size)
        if self.apart != 1:
            forward, backward = self._rows(forward), self._rows(backward)
        self.ops.append(_new(Op, (
            name, module or self.module, role, reads, out, (*saves, out) if own else saves,
            tuple(forward), tuple(backward), flops, gradients, weight_gradient, product,
            kept_by_policy, passes, scratch, backward_scratch, extra, exchanges, self.fused,
            weight, dispatched,
        )))  # fmt: skip
        return out

    def _rows(self, rows: Sequence[Map | Kernel]) -> tuple[Map | Kernel, ...]:
        if self.apart == 1:
            return tuple(rows)
        return tuple(_apart(row, self.apart) for row in rows)

    def add(self, name: str, one: int, two: int) -> int:
        """A residual sum; backward adds both branches' gradients. Compiled, the next norm does."""
        size = self.sizes[two]
        traffic = [Map(name, (2 if self.fused else 3) * size)]
        return self.op(name, (one, two), size, (), traffic, traffic, passes=True)

    def unseen(
        self,
        name: str,
        forward: Sequence[Map] = (),
        backward: Sequence[Map] = (),
        *,
        module: str = "",
        role: OpRole = OpRole.OTHER,
        exchanges: tuple[Exchange, ...] = (),
    ) -> None:
        """Kernels that make no tensor of the graph: sums of gradients, casts, metrics."""
        self.ops.append(_new(Op, (
            name, module or self.module, role, (), -1, (), self._rows(forward),
            self._rows(backward), 0.0, 0, 0.0, False, False, False, 0.0, 0.0, 0.0, exchanges,
            self.fused, "",
        )))  # fmt: skip

    def gemm(
        self,
        name: str,
        m: int,
        n: int,
        k: int,
        direction: str = "forward",
        batch: int = 1,
        dtype: str = "",
        module: str = "",
        role: OpRole = OpRole.OTHER,
    ) -> Kernel:
        """A matrix product, C (m x n) = A (m x k) B (k x n), `batch` times; C is an activation."""
        kind = dtype or self.setting.dtype
        size = out = DTYPE_BYTES[kind]
        if dtype:
            out = max(size, self.setting.product)
        if kind == "fp32" and self.setting.tf32:
            kind = "tf32"
        pieces = self.cut.get(name, 1)
        traffic = float(batch * (size * (m * k + pieces * k * n) + out * m * n))
        return _new(Kernel, (
            name, module or self.module, "gemm", 2.0 * m * n * k * batch, traffic,
            (-(-m // pieces), n, k, batch), kind, direction, pieces, "stream", role, False,
        ))  # fmt: skip

    def products(
        self,
        name: str,
        rows: int,
        n_in: int,
        n_out: int,
        batch: int = 1,
        dtype: str = "",
        module: str = "",
        role: OpRole = OpRole.OTHER,
    ) -> tuple[Kernel, Kernel, Kernel]:
        """A weight's on so many rows: forward, and the gradients of its input and of itself."""
        gemm = self.gemm
        made = (
            gemm(name, rows, n_out, n_in, "forward", batch, dtype, module, role),
            gemm(f"{name}.dgrad", rows, n_in, n_out, "dgrad", batch, dtype, module, role),
            gemm(f"{name}.wgrad", n_out, n_in, rows, "wgrad", batch, dtype, module, role),
        )
        if not self.singly:
            return made
        one, two, three = (k._replace(shape=(*k.shape[:3], 1), launches=batch) for k in made)
        return one, two, three

    def described(self) -> Description:
        """What was played."""
        return Description(
            tuple(self.modules), tuple(self.ops), tuple(self.sizes), tuple(self.order)
        )


def _apart(row: Map | Kernel, parts: int) -> Map | Kernel:
    """A batched product as products one after another; any other kernel on a part at a time."""
    if isinstance(row, Map):
        return row._replace(launches=row.launches * parts)
    return row._replace(shape=(*row.shape[:3], 1), launches=parts)


_new = tuple.__new__  # of a named tuple, in half the time
