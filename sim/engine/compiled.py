"""The kernel as machine code: compiled once by numba, and loaded without it ever after.

Importing numba and loading from its own cache takes a second, loading an object file with llvmlite
a thirtieth.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from sim.engine import kernel, objects
from sim.engine.state import State
from sim.program import Program

# No fastmath: results are bit-identical to plain Python. `_nrt=False` keeps reference counting
# out of the loop; division follows numpy (the kernel checks what could be zero).
OPTIONS: dict[str, Any] = {"error_model": "numpy", "_nrt": False}
# modes of numba's in which it compiles otherwise, or not at all
_CHECKED = ("NUMBA_DISABLE_JIT", "NUMBA_BOUNDSCHECK")

Run = Callable[[Program, State], kernel.Outcome]
_run: Run | None = None


def simulate(program: Program, state: State) -> kernel.Outcome:
    """Run the compiled kernel; see `sim.engine.kernel.simulate`."""
    global _run
    if _run is None:
        checked = any(os.environ.get(name, "0") != "0" for name in _CHECKED)
        _run = _dispatched() if checked else _loaded(objects.kept() or compile_kernel())
    return _run(_plain(program), state)


def compile_kernel() -> bytes:
    """Compile the kernel (seconds) and keep it, where there is a place to."""
    import llvmlite.binding as llvm
    import numba
    from numba.np.numpy_support import carray, from_dtype

    types: Any = numba.types

    from sim.engine.state import prepare
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
    head = {"made": objects.made(code), "entry": entry.native_name}
    whole = json.dumps(head).encode() + b"\n" + code
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


def _loaded(whole: bytes) -> Run:
    """The kernel of an object file, as a call."""
    import llvmlite.binding as llvm

    head, _, code = whole.partition(b"\n")
    known = json.loads(head)
    linker = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine(llvm))
    linker.add_object_file(llvm.ObjectFileRef.from_data(code))
    linker.finalize_object()
    count = len(Program._fields) + len(State._fields)
    prototype = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * count, ctypes.c_int64, ctypes.c_int64)
    function = prototype(linker.get_function_address(known["entry"]))

    def run(program: Program, state: State) -> kernel.Outcome:
        columns: tuple[Any, ...] = (*program, *state)
        arguments = [_address(c) if isinstance(c, np.ndarray) else c for c in columns]
        shapes = [c.shape if isinstance(c, np.ndarray) else () for c in columns]
        sizes = np.array([(*shape, 0, 0)[:2] for shape in shapes], dtype=np.int64)
        out = np.zeros(6)
        function(*arguments, _address(sizes), _address(out))
        code, op, finished, now, events, solves = out.tolist()
        return int(code), int(op), int(finished), now, int(events), int(solves)

    run.linker = linker  # type: ignore[attr-defined]  # its memory holds the code
    return run


def _address(column: np.ndarray) -> int:
    found: int = column.__array_interface__["data"][0]
    return found


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
