"""A step's measures from two shallow models: for curves, sweeps and ranking candidates.

Blocks repeat, so past the first few every measure is linear in their number:
M(L) = M(b) + (L - b) (M(b) - M(a)) / (b - a). Against full simulation the step time agrees within
1e-5 (tests/unit/test_quick.py, compute-, launch- and communication-bound cases); from shallower
models, enough to rank changes by, within 3e-3. The headline figures of a run are always simulated
in full.
"""

from __future__ import annotations

from functools import lru_cache

from sim.inputs.topology import Topology
from sim.inputs.workload import Workload
from sim.step.breakdown import Breakdown
from sim.step.run import MICRO_STEPS, run_step

SHALLOW, DEEP = 4, 8  # both beyond any prefetch depth of FSDP
ROUGH = 3, 5


def quick_breakdown(
    topology: Topology, workload: Workload, *, engine: str = "auto", rough: bool = False
) -> Breakdown:
    """Measures of a step, extrapolated in depth where its blocks are alike.

    Strategies that look far ahead (ZeRO-3) and models of unlike blocks are simulated in full.

    Parameters
    ----------
    topology, workload : specs
        Checked by the loader.
    engine : str
        As for `run_step`.
    rough : bool
        From two thirds of the work, where a few tenths of a per cent do not matter.
    """
    model = workload.model
    if not repeats(workload) or model.layers <= 2 * DEEP:
        return run_step(topology, workload, engine=engine).breakdown
    near = rough and workload.parallelism.forward_prefetch < ROUGH[0] - 1
    less, more = ROUGH if near else (SHALLOW, DEEP)
    shallow = _at_depth(topology, workload, less, engine)
    deep = _at_depth(topology, workload, more, engine)
    factor = (model.layers - more) / (more - less)
    whole = Breakdown()
    whole.add(deep, 1.0 + factor)
    whole.add(shallow, -factor)
    return whole


def repeats(workload: Workload) -> bool:
    """Whether every block of the step is like the next."""
    model, p = workload.model, workload.parallelism
    alike = model.sliding_window_pattern == 1 and model.dense_layers == 0
    near = p.strategy in ("fsdp1", "fsdp2") and p.forward_prefetch < SHALLOW - 1
    return alike and near and workload.activation_checkpointing.kind != "selective-blocks"


def _at_depth(topology: Topology, workload: Workload, layers: int, engine: str) -> Breakdown:
    model = workload.model.model_copy(update={"layers": layers})
    more = max(0, workload.gradient_accumulation - MICRO_STEPS - 1)
    update = {"model": model, "gradient_accumulation": workload.gradient_accumulation - more}
    step, middle = _step(topology, workload.model_copy(update=update), engine)
    whole = Breakdown()
    whole.add(step)
    if more and middle is not None:
        whole.add(middle, more)
    return whole


@lru_cache(maxsize=1024)
def _step(
    topology: Topology, workload: Workload, engine: str
) -> tuple[Breakdown, Breakdown | None]:
    """Measures of a step and of its repeated micro-step; jobs that differ in length share them."""
    outcome = run_step(topology, workload, engine=engine)
    return outcome.breakdown, outcome.middle
