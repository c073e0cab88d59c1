"""The compiled kernel: no reference counts, bounds checks that work, and its speed."""

from __future__ import annotations

import importlib
import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import numba
import numpy as np
import pytest

import sim.engine
from bench.ring import ring_step
from sim import engine
from sim.engine import compiled, image, kernel, machine, objects, run
from sim.engine.state import State
from sim.program import Program, assemble
from tests.clock import least

#: with bounds checks numba runs the loop itself, and nothing is kept
kept_only = pytest.mark.skipif(
    machine.checked(),
    reason="numba checks, so it compiles",
)
jit_only = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT is set")


@jit_only
def test_the_loop_counts_no_references():
    # Helpers or attributes that take arrays make numba count references: 70 times slower.
    # Compiled anew (seconds): numba does not show the code of a cached function.
    for part in kernel.PARTS:
        machine.teach(part)
    fresh = numba.njit(**machine.OPTIONS)(kernel.simulate)
    program, _ = assemble(lane=[0], latency=1.0)
    fresh(program, sim.engine.prepare(program))
    llvm = fresh.inspect_llvm(fresh.signatures[0])
    assert "fdiv double" in llvm
    assert "fast" not in {word for line in llvm.splitlines() for word in line.split()}
    assert "NRT_incref" not in llvm


@jit_only
def test_columns_as_they_come():
    # read-only or strided ones are copied: machine code reads what lies in a row
    program, _ = assemble(lane=[0, 0, 1], latency=[1.0, 2.0, 3.0])
    frozen = program.latency.copy()
    frozen.flags.writeable = False
    odd = program._replace(latency=frozen, weight=np.repeat(program.weight, 2)[::2])
    assert run(odd, "compiled").end.tolist() == [1.0, 3.0, 3.0]


@kept_only
def test_what_was_compiled_is_kept_and_checked(tmp_path, monkeypatch):
    run(ring_step(4, layers=2), "compiled")
    source = compiled.machine.source
    whole = objects.kept(source)
    assert whole is not None
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert objects.kept(source) is None
    objects.keep(whole, source)
    assert objects.kept(source) == whole
    assert objects.kept(source + b" ") is None
    for damaged in (whole[:-1], b"", b"{}\n" + whole, whole.replace(b'"made": ["', b'"made": ["9')):
        objects.kept_at(source).write_bytes(damaged)
        assert objects.kept(source) is None


@kept_only
def test_the_compiled_loop_loads_without_its_compiler():
    run(ring_step(4, layers=2), "compiled")
    code = (
        "import sys\n"
        "from sim.engine import run\n"
        "from sim.program import assemble\n"
        "run(assemble(lane=[0, 1], latency=1.0)[0], 'compiled')\n"
        "raise SystemExit(bool({'numba', 'llvmlite'} & set(sys.modules)))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_of_two_that_would_compile_the_same_one_waits_for_the_other(tmp_path, monkeypatch):
    """Workers that begin together: each told that it compiles, and took its ten seconds."""
    pytest.importorskip("fcntl")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    found = []

    def second():
        with objects.alone(b"source"):
            found.append(objects.kept_at(b"source").exists())

    with objects.alone(b"source"):
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive()
        objects.keep(b"{}", b"source")
    waiting.join(10.0)
    assert found == [True]
    monkeypatch.setattr(objects, "_TRIES", 2)  # one that never ends holds nobody back for ever
    with objects.alone(b"source"):
        second()
    assert found == [True, True]


@kept_only
@jit_only
def test_an_object_file_that_cannot_be_linked_runs_as_well(tmp_path, monkeypatch):
    program = ring_step(4, layers=2)
    expected = run(program, "compiled").end.tolist()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compiled.machine, "_loaded", None)
    monkeypatch.setattr(objects, "linked", lambda code, entry: None)
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    assert run(program, "compiled").end.tolist() == expected  # compiled anew
    assert terminal.getvalue().startswith("compiling the engine for this machine, once")
    assert terminal.getvalue().count("\n") == 1
    whole = objects.kept(compiled.machine.source)
    assert whole is not None
    code, entry = objects.unpacked(whole)
    assert image.linked(code, "no_such_function") is None
    assert image.linked(code[:18] + b"\xb7" + code[19:], entry) is None  # of an aarch64
    assert image.linked(b"\xcf\xfa\xed\xfe", entry) is None
    monkeypatch.setattr(compiled.machine, "_loaded", None)  # loaded from where it was kept
    assert run(program, "compiled").end.tolist() == expected
    linked = image.linked(code, entry)
    if linked is not None:  # on x86-64
        assert 0 <= linked.entry < linked.code < len(linked.memory)
        assert linked.code % image.PAGE == 0


def test_bounds_checks_find_a_read_outside():
    # numba's cache does not know NUMBA_BOUNDSCHECK, hence the folder of its own (set in CI).
    code = (
        "import numpy as np, numba\n"
        "@numba.njit(error_model='numpy', _nrt=False)\n"
        "def read(a, i): return a[i]\n"
        "read(np.zeros(3), 7)\n"
    )
    checked = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_DISABLE_JIT": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "IndexError" in checked.stderr


@pytest.mark.skipif(not numba.config.BOUNDSCHECK, reason="NUMBA_BOUNDSCHECK is not set")
def test_bounds_checks_reach_the_kernel():
    program, _ = assemble(lane=[0, 1], latency=1.0, src=[0], dst=[1])
    torn = program._replace(succ=np.array([9], dtype=np.int32))
    state = sim.engine.prepare(program)
    with pytest.raises(IndexError):
        compiled.simulate(torn, state)


@jit_only
def test_speed_at_a_fifth_of_the_target():
    # Target: 15 M events/s on 16 ranks (bench/engine.py). CPU time, the best of several.
    program = ring_step(16, "steps", layers=40)
    line = run(program, "compiled")
    assert line.events / least(lambda: run(program, "compiled"), 7) > 3e6


@pytest.mark.parametrize("name", ["python", "reference"])
def test_a_small_ring_step_on_every_engine(name):
    program = ring_step(4, "steps", layers=3, jitter=0.05)
    got, expected = run(program, name), run(program, "compiled")
    np.testing.assert_allclose(got.end, expected.end, rtol=1e-9)
    assert got.events == expected.events


def test_levels_of_the_ring_step_agree():
    # Unrolled, the same steps are ops of their own: the same times. As one flow an edge a
    # collective has one latency instead of n-1.
    steps, unrolled, flows = (
        run(ring_step(8, level, layers=4, jitter=0.05), "python")
        for level in ("steps", "unrolled", "flows")
    )
    assert steps.end.max() == pytest.approx(unrolled.end.max(), rel=1e-12)
    assert steps.events == unrolled.events
    assert flows.end.max() == pytest.approx(steps.end.max(), rel=1e-2)


def test_auto_takes_the_plain_loop_until_the_other_pays(monkeypatch):
    small = ring_step(4, layers=2)
    monkeypatch.delitem(sys.modules, "sim.engine.compiled")
    monkeypatch.setattr(objects, "kept_at", lambda source: Path(__file__))
    monkeypatch.setattr(engine, "_plain_s", 0.0)
    assert engine.choose(small) == "python"
    monkeypatch.setattr(engine, "_plain_s", engine.LOADING_S)
    assert engine.choose(small) == "compiled"
    monkeypatch.setattr(objects, "kept_at", lambda source: Path("nowhere"))
    assert engine.choose(small) == "python"
    functions = (kernel.simulate, *kernel.PARTS)  # without what measures it
    loop = objects.source_of(functions, (Program, State))
    monkeypatch.setattr(
        objects, "kept_at", lambda source: Path(__file__ if source == loop else "nowhere")
    )
    assert engine.choose(small) == "python"
    monkeypatch.setattr(engine, "_plain_s", engine.COMPILING_S)
    assert engine.choose(small) == "compiled"


_FUNCTION = "Y = {}\ndef f(x):\n    return x + {}\n"
_CHANGES = {
    "in it": (_FUNCTION.format(0.0, 1.0), _FUNCTION.format(0.0, 2.0)),
    "beside it": (_FUNCTION.format(1.0, "Y"), _FUNCTION.format(2.0, "Y")),
}


@pytest.mark.parametrize(("old", "new"), _CHANGES.values(), ids=_CHANGES)
def test_code_is_kept_by_what_was_imported_too(old, new, tmp_path, monkeypatch):
    """A process that goes on while its files change must not keep old code as that of the new."""
    name = "engine_that_changes"
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def imported(text):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.setitem(sys.modules, name, None)  # undone at the end
        del sys.modules[name]
        importlib.invalidate_caches()
        return importlib.import_module(name).f

    before = imported(old)
    assert objects.source_of((before,), ()) == objects.source_of((before,), ())
    (tmp_path / f"{name}.py").write_text(new)
    stale = objects.source_of((before,), ())
    after = imported(new)
    assert (before(1.0), after(1.0)) == (2.0, 3.0)
    assert stale != objects.source_of((after,), ())


def test_another_process_has_the_same_code():
    code = (
        "import hashlib\n"
        "from sim.engine import kernel, objects\n"
        "from sim.engine.state import State\n"
        "from sim.program import Program\n"
        "functions = (kernel.simulate, *kernel.PARTS)\n"
        "print(hashlib.sha256(objects.source_of(functions, (Program, State))).hexdigest())\n"
    )
    each = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(each) == 1


def test_a_plain_run_imports_neither_numba_nor_simpy():
    code = (
        "import sys\n"
        "import sim.api\n"
        "from sim.step import step\n"  # what runs steps does not load the compiled loop either
        "from sim.engine import run\n"
        "from sim.program import assemble\n"
        "run(assemble(lane=[0, 1], latency=1.0)[0])\n"
        "not_yet = {'numba', 'simpy', 'sim.engine.compiled'}\n"
        "raise SystemExit(bool(not_yet & set(sys.modules)))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
