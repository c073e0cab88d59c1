"""A function over columns as machine code: compiled once by numba, loaded without it ever after.

Importing numba and loading from its own cache takes a second, llvmlite and an object file a
twentieth, linked code (`sim.engine.image`) a thousandth. One call runs the function on as many sets
of columns as there are.
"""

from __future__ import annotations

import ctypes
import operator
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.engine import objects
from sim.engine.image import Image, LoadedFunction, load
from sim.errors import EngineError

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]

# No fastmath: results are bit-identical to plain Python. `_nrt=False` keeps reference counting
# out of the loop; division follows numpy (functions check what could be zero).
OPTIONS: dict[str, Any] = {"error_model": "numpy", "_nrt": False}
#: of what becomes part of its caller
_INLINED = {**OPTIONS, "forceinline": True}
# modes of numba's in which it compiles otherwise, or not at all
_CHECKED = ("NUMBA_DISABLE_JIT", "NUMBA_BOUNDSCHECK")


def checked() -> bool:
    """Whether numba is told to check what it runs, or not to compile."""
    return any(os.environ.get(name, "0") != "0" for name in _CHECKED)


def address(column: npt.NDArray[Any]) -> int:
    """Of an array's first element."""
    found: int = column.__array_interface__["data"][0]
    return found


def table(columns: Sequence[Any], like: Sequence[Any], calls: int) -> I8:
    """Addresses of columns, or the numbers themselves of those that are none, (calls, columns).

    Parameters
    ----------
    columns : sequence
        Arrays or whole numbers; what has an axis more than its likeness has a row, or a number, a
        call. Rows lie in one piece.
    like : sequence
        Columns of one call.
    calls : int
        How many.
    """
    first, step = [], []
    numbers = []
    for i, (column, one) in enumerate(zip(columns, like, strict=True)):
        if not isinstance(one, np.ndarray):
            if isinstance(column, np.ndarray):
                numbers.append((i, column))
                column = 0
            first.append(column)
            step.append(0)
            continue
        rows = column.ndim > one.ndim
        first.append(address(column))
        step.append(column.strides[0] if rows else 0)
    at: I8 = np.arange(calls)[:, None] * np.array(step, dtype=np.int64) + np.array(first)
    for i, column in numbers:
        at[:, i] = column
    return at


def flat(columns: Sequence[Any]) -> tuple[Any, ...]:
    """Arrays and numbers of columns, and of what stands in place of one."""
    found: list[Any] = []
    for column in columns:
        found.extend(flat(column) if isinstance(column, tuple) else (column,))
    return tuple(found)


def _named(columns: Sequence[Any]) -> Iterator[Any]:
    for column in columns:
        if isinstance(column, tuple):
            yield column
            yield from _named(column)


@cache
def teach(part: Callable[..., Any]) -> None:
    """Let compiled code call a function of ours: it becomes part of its caller."""
    from numba.extending import register_jitable

    register_jitable(**_INLINED)(part)


@cache
def _teach_items(numba: Any) -> None:
    """Let compiled code read ``column[i]`` of a named tuple that has an `item`, see `shared`."""
    from sim.engine.shared import class_at

    def read(self, i: Any) -> Any:  # type: ignore[no-untyped-def]  # as `item` is written
        del i
        if isinstance(self, numba.types.NamedTuple):
            return getattr(self.instance_class, "item", None)
        return None

    numba.extending.overload(operator.getitem, jit_options=_INLINED)(read)
    teach(class_at)


class MachineCode:
    """A function as machine code.

    Parameters
    ----------
    function : callable
        Of named tuples of columns; returns numbers. A column is an array, a whole number, or a
        named tuple of such whose `item` says what is at an index. Compiled, an array is its bare
        address: it has no length, and its indices do not count from the end.
    like : sequence of named tuples
        Arguments of the kinds that it takes.
    results : int
        Numbers that it returns.
    parts : sequence of callables, optional
        Functions of ours that it calls, and that they call.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        like: Sequence[Any],
        results: int,
        parts: Sequence[Callable[..., Any]] = (),
    ) -> None:
        self.function, self.results, self.parts = function, results, parts
        self._arguments = tuple(like)
        self.like = flat(like)
        self._loaded: LoadedFunction | None = None

    @property
    def source(self) -> bytes:
        """What its code must have been made of."""
        return objects.source_of((self.function, *self.parts), self._kinds)

    @property
    def _kinds(self) -> list[type]:
        """Types of its arguments, and of columns that are no arrays."""
        return [type(one) for one in _named(self._arguments)]

    def __call__(self, where: I8) -> F8:
        """Run it on what a `table` says, (calls, results)."""
        out = np.zeros((len(where), self.results))
        self.load().call(len(where), address(where), address(out))
        return out

    def load(self) -> LoadedFunction:
        """What was kept, or is compiled now."""
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def _load(self) -> LoadedFunction:
        kept = objects.kept(self.source)
        if kept is None:
            with objects.alone(self.source):
                kept = objects.kept(self.source) or self.compile()
        known = objects.unpacked(kept)
        loaded = load(known, 3) if isinstance(known, Image) else _by_llvm(*known, 3)
        if loaded is None:
            message = "this process may not run code that it loads; --engine python does without"
            raise EngineError(message)
        return loaded

    def compile(self) -> bytes:
        """Compile it (seconds) and keep it, where there is a place to; a terminal is told."""
        objects.tell("compiling the engine for this machine, once (ten seconds) ...")
        import llvmlite.binding as llvm
        import numba

        types: Any = numba.types

        @numba.extending.intrinsic
        def pointer(context: Any, number: Any, of: Any) -> Any:
            del context
            found = types.CPointer(of.dtype)

            def made(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                kind = context.get_value_type(signature.return_type)
                return builder.inttoptr(arguments[0], kind)

            return found(number, of), made

        _teach_items(numba)
        for part in self.parts:
            teach(part)
        known: dict[str, Any] = {"pointer": pointer}
        known["call"] = numba.njit(**OPTIONS)(self.function)
        numbers = iter(range(len(self.like)))

        def made_of(one: Any) -> str:
            if isinstance(one, tuple):
                known[type(one).__name__] = type(one)
                return f"{type(one).__name__}({', '.join(map(made_of, one))})"
            i = next(numbers)
            if not isinstance(one, np.ndarray):
                return f"at[first + {i}]"
            known[one.dtype.name] = one.dtype
            return f"pointer(at[first + {i}], {one.dtype.name})"

        arguments = [made_of(columns) for columns in self._arguments]
        results = ", ".join(f"out[r * {self.results} + {i}]" for i in range(self.results))
        source = (
            "def entry(calls, at, out):\n"
            "    for r in range(calls):\n"
            f"        first = r * {len(self.like)}\n"
            f"        {results} = call({', '.join(arguments)})\n"
        )
        exec(source, known)
        whole, floats = types.CPointer(types.int64), types.CPointer(types.float64)
        signature = types.void(types.int64, whole, floats)
        entry = numba.cfunc(signature, error_model="numpy")(known["entry"])
        code = _machine(llvm).emit_object(llvm.parse_assembly(_closed(entry.inspect_llvm())))
        packed = objects.packed(code, entry.native_name)
        objects.keep(packed, self.source)
        return packed


def _closed(module: str) -> str:
    """LLVM's text without what numba would report exceptions by: functions raise none."""
    trap = r"define internal \1 { call void @llvm.trap() unreachable }"
    module = re.sub(r"^declare (.*@(?!llvm\.)\S+\(.*)$", trap, module, flags=re.MULTILINE)
    empty = r"\1internal \2 zeroinitializer"
    module = re.sub(r"^(@\S+ = )external (.*global \S+)", empty, module, flags=re.MULTILINE)
    return module + "\ndeclare void @llvm.trap()\n"


def _machine(llvm: Any) -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3,
        jit=True, codemodel="jitdefault",
    )  # fmt: skip


def _by_llvm(code: bytes, entry: str, arguments: int) -> LoadedFunction:
    """A function of an object file that could not be linked beforehand."""
    import llvmlite.binding as llvm

    linker = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine(llvm))
    linker.add_object_file(llvm.ObjectFileRef.from_data(code))
    linker.finalize_object()
    prototype = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * arguments)
    return LoadedFunction(prototype(linker.get_function_address(entry)), linker)
