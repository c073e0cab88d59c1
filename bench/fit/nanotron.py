"""CPU time of a layer in nanotron's forward and backward, on layouts that wait for the CPU alone.

    python bench/fit/nanotron.py

Rows of `sim/data/measured/mesh.csv`: one sequence a micro-batch, 4 or 8 tensor-parallel ranks
inside a node, no pipeline, up to 8 nodes, of cells that may be looked at. Free is one number, as
long in forward as in backward; the answer is where the mean logarithm of predicted over measured
time is zero.
"""

import math

from sim.calibration.mesh import at_odds, layouts, measured
from sim.data import table
from sim.inputs.shares import batch_on
from sim.inputs.trainer import trainer_named
from sim.step.run import run_step

TRAINER = table("trainers")["nanotron"]
SHIPPED = TRAINER["layer_forward_s"]


def rows():
    """Those that the fit may see."""
    odd = at_odds(layouts())
    return [
        r for r in layouts()
        if r.ran and not r.held and r not in odd and r.pp == 1 and r.tp in (4, 8)
        and r.micro_batch == 1 and r.nodes <= 8
    ]  # fmt: skip


def errors(layer_s):
    """Log of predicted over measured time of each row, with this time of a layer."""
    TRAINER["layer_forward_s"] = TRAINER["layer_backward_s"] = layer_s
    trainer_named.cache_clear()
    found = []
    for layout in rows():
        row = measured(layout)
        took = batch_on(row.workload).tokens_per_gpu / row.tokens_per_s_per_gpu
        found.append(math.log(run_step(row.topology, row.workload).time_s / took))
    return found


def main() -> None:
    """Print the fit and what is shipped."""
    low, high = 0.5e-3, 4e-3
    for _ in range(12):
        middle = (low + high) / 2
        mean = sum(errors(middle)) / len(rows())
        low, high = (middle, high) if mean < 0 else (low, middle)
    left = errors(low)
    spread = math.sqrt(sum(e * e for e in left) / len(left))
    print(f"{len(left)} rows: {1e3 * low:.2f} ms a layer and direction, {spread:.1%} left")
    print(f"shipped: {1e3 * SHIPPED:.2f} ms")


if __name__ == "__main__":
    main()
