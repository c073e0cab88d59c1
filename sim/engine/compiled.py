"""The kernel as machine code: compiled once by numba, and loaded without it ever after.

Importing numba and loading from its own cache takes a second, llvmlite and an object file a
twentieth, linked code (`sim.engine.image`) a thousandth.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from sim.engine import kernel, objects
from sim.engine.blank import Blank, address, addresses, blank_of, shapes
from sim.engine.image import Image, Loaded, load
from sim.engine.state import State, prepare
from sim.errors import EngineError
from sim.program import F8, I8, Program

# No fastmath: results are bit-identical to plain Python. `_nrt=False` keeps reference counting
# out of the loop; division follows numpy (the kernel checks what could be zero).
OPTIONS: dict[str, Any] = {"error_model": "numpy", "_nrt": False}
# modes of numba's in which it compiles otherwise, or not at all
_CHECKED = ("NUMBA_DISABLE_JIT", "NUMBA_BOUNDSCHECK")

Run = Callable[[Program, State], kernel.Outcome]
_run: Run | None = None


def simulate(program: Program, state: State) -> kernel.Outcome:
    """Run the compiled kernel; see `sim.engine.kernel.simulate`."""
    return _kernel()(_plain(program), state)


def play(program: Program) -> tuple[kernel.Outcome, F8, F8]:
    """Run the compiled kernel; what it says, and when each op starts and ends. [s]"""
    run, blank = _kernel(), blank_of(program)
    if blank is not None and isinstance(run, _Code):
        return run.again(_plain(program), blank)
    state = prepare(program)
    return run(_plain(program), state), state.start, state.end


def _kernel() -> Run:
    global _run
    if _run is None:
        checked = any(os.environ.get(name, "0") != "0" for name in _CHECKED)
        _run = _dispatched() if checked else _Code(objects.kept() or compile_kernel())
    return _run


def compile_kernel() -> bytes:
    """Compile the kernel (seconds) and keep it, where there is a place to."""
    import llvmlite.binding as llvm
    import numba
    from numba.np.numpy_support import carray, from_dtype

    types: Any = numba.types

    from sim.program import assemble

    program, _ = assemble(lane=[0], latency=1.0)
    names: list[str] = []
    signature: list[Any] = []

    def rebuilt(columns: Program | State) -> str:
        """Its expression, of pointers and the sizes behind them."""
        parts = []
        for column in columns:
            name, place = f"a{len(names)}", 2 * len(names)
            names.append(name)
            if isinstance(column, np.ndarray):
                signature.append(types.CPointer(from_dtype(column.dtype)))
                size = "".join(f"sizes[{place + i}], " for i in range(column.ndim))
                parts.append(f"carray({name}, ({size}))")
            else:
                signature.append(types.int64)
                parts.append(name)
        return f"{type(columns).__name__}({', '.join(parts)})"

    call = f"simulate({rebuilt(program)}, {rebuilt(prepare(program))})"
    body = f"out[0], out[1], out[2], out[3], out[4], out[5] = {call}"
    source = f"def entry({', '.join(names)}, sizes, out):\n    {body}\n"
    known = {
        "carray": carray, "simulate": numba.njit(**OPTIONS)(kernel.simulate),
        "Program": Program, "State": State,
    }  # fmt: skip
    exec(source, known)
    ends = types.CPointer(types.int64), types.CPointer(types.float64)
    entry = numba.cfunc(types.void(*signature, *ends), error_model="numpy")(known["entry"])
    code: bytes = _machine(llvm).emit_object(llvm.parse_assembly(_closed(entry.inspect_llvm())))
    whole = objects.packed(code, entry.native_name)
    objects.keep(whole)
    return whole


def _closed(module: str) -> str:
    """LLVM's text without what numba would report exceptions by: the kernel raises none."""
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


class _Code:
    """The kernel as it is kept, as a call."""

    def __init__(self, whole: bytes) -> None:
        known = objects.unpacked(whole)
        count = len(Program._fields) + len(State._fields) + 2
        loaded = load(known, count) if isinstance(known, Image) else _by_llvm(*known, count)
        if loaded is None:
            message = "this process may not run code that it loads; --engine python does without"
            raise EngineError(message)
        self._held, self.function = loaded, loaded.call  # the former's memory holds the code

    def __call__(self, program: Program, state: State) -> kernel.Outcome:
        columns: tuple[Any, ...] = (*program, *state)
        return self._called(addresses(columns), shapes(columns))

    def again(self, program: Program, blank: Blank) -> tuple[kernel.Outcome, F8, F8]:
        """A run of a program that differs from an earlier one in numbers only."""
        memory = blank.fresh(program)
        outcome = self._called(*blank.arguments(program, memory))
        return outcome, blank.column(memory, "start"), blank.column(memory, "end")

    def _called(self, arguments: list[int], sizes: I8) -> kernel.Outcome:
        out = np.zeros(6)
        self.function(*arguments, address(sizes), address(out))
        code, op, finished, now, events, solves = out.tolist()
        return int(code), int(op), int(finished), now, int(events), int(solves)


def _by_llvm(code: bytes, entry: str, arguments: int) -> Loaded:
    """A function of an object file that could not be linked beforehand."""
    import llvmlite.binding as llvm

    linker = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine(llvm))
    linker.add_object_file(llvm.ObjectFileRef.from_data(code))
    linker.finalize_object()
    prototype = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * arguments)
    return Loaded(prototype(linker.get_function_address(entry)), linker)


def _dispatched() -> Run:
    """The kernel as numba runs it when told to check, or not to compile."""
    from numba import njit

    jitted = njit(**OPTIONS)(kernel.simulate)

    def run(program: Program, state: State) -> kernel.Outcome:
        with np.errstate(all="ignore"):  # not compiled, numpy would warn where numba does not
            outcome: kernel.Outcome = jitted(program, state)
        return outcome

    return run


def _plain(program: Program) -> Program:
    """The program with columns that lie in a row, and may be written."""
    if all(c.flags.carray for c in program[:-1]):  # the last is n_lanes
        return program
    columns: dict[str, Any] = {
        name: np.require(column, requirements=("C", "A", "W"))
        for name, column in program._asdict().items()
        if name != "n_lanes"
    }
    return program._replace(**columns)
