"""What weights do where a kernel and a collective share HBM (docs/decisions/0004)."""

import pytest

from sim.engine import run
from sim.inputs.loader import load
from sim.lowering.parts import CATEGORIES
from sim.step.run import run_step
from tests.builder import ProgramBuilder


@pytest.mark.parametrize(
    ("flow_weight", "kernel_ms", "flow_ms"), [(1.0, 10.0, 15.714286), (350e9, 11.333333, 11.333333)]
)
def test_a_kernel_and_a_collective_on_one_hbm(flow_weight, kernel_ms, flow_ms):
    """2,700 + 2 x 350 GB/s on 3,000: in proportion 3400 / 3000; else 300 / 2 GB/s are left."""
    build = ProgramBuilder()
    hbm, link = build.resource(3000e9), build.resource(450e9)
    build.op(0, work=0.010, bound=1.0, weight=1.0, demands={hbm: 2700e9})
    build.op(1, work=3.5e9, bound=350e9, weight=flow_weight, demands={hbm: 2.0, link: 1.0})
    end = run(build.build()[0], "python").end * 1e3
    assert end == pytest.approx([kernel_ms, flow_ms], rel=1e-6)


@pytest.mark.parametrize("level", ["folded", "ranks"])
def test_collectives_carry_their_rate_alone(level):
    loaded = load("dgx-h100", "llama3-8b-sft", ["gradient_accumulation=1"])
    outcome = run_step(loaded.topology, loaded.workload, level=level)
    program, category = outcome.lowered.program, outcome.lowered.category
    moves = (category == CATEGORIES.index("collective")) & (program.work > 0)
    assert moves.any()
    assert (program.weight[moves] == program.bound[moves]).all()
