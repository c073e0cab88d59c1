"""CPU times in nanotron's runs, each on layouts that wait for it.

    python bench/fit/nanotron.py
    python bench/fit/nanotron.py --cross    leave out one model, number of nodes, t or p at a time,
                                            of all rows: what the others give, and how far off

Rows of `sim/data/measured/mesh.csv` of cells that are not held back. Seven numbers are free, one
after the other: the time of a layer, both ways (ranks in a node share each matrix, one sequence, no
pipeline, up to 8 nodes, a billion parameters a rank at most: the GPU waits all along); what of it
is forward's (the same, up to two billion a rank, where the GPU waits in forward alone, as each
micro-step starts with an idle one); that of a part of a parameter that is gathered (ZeRO-1 without
pipeline, 32 data-parallel ranks and more); that of a message of gloo's while ranks agree on a
collective, within a node (pipelines over nodes, one sequence, ranks of a matrix in one) and between
nodes (16 of them); that of a message of a pipeline, in the runs that are held up; and the latency
of each of the three switches of a hop between nodes (ranks of a matrix over nodes without a
pipeline, buckets of gradients reduced on 16 nodes and more). Each is where the mean logarithm of
predicted over measured time is zero; that of a part, on which rows depend very unlike, where the
logarithms differ least, and of 8 to 12 us, which do it alike, where none is off.
"""

import math
import statistics
import sys

import numpy as np

from sim.calibration.mesh import TABLE, at_odds, held_up, layouts, measured
from sim.data import table
from sim.inputs.shares import batch_on
from sim.inputs.trainer import trainer_named
from sim.step.kept import forget
from sim.step.run import run_step
from sim.units import parse

TRAINER = table("trainers")["nanotron"]
AGREEMENT = table("constants/host")["agreement"]
MACHINE = table(TABLE)["machine"]
WAITING = table(TABLE)["held_up"]["pipeline"]["stack"]
STEPS = 7  # of a scan
MICRO_BATCHES = 16  # of a pipeline's step, at least: its ends weigh little


def rows(of, held=False):
    """Those that a fit may see; with `held` the others, too."""
    odd = at_odds(layouts())
    seen = (r for r in layouts() if r.ran and (held or not r.held) and r not in odd)
    return [r for r in seen if of(r)]


def _short(row, least, most):
    """Whether kernels are short, of so many billion parameters a rank, and nothing else waits."""
    alone = row.pp == 1 and row.nodes <= 8 and not held_up(row)
    billions = int(row.model.removesuffix("B")) / row.tp
    return alone and row.micro_batch == 1 and 1 < row.tp <= 8 and least < billions <= most


def of_layer(row):
    """Whether a row waits for a layer's issue, forward and backward."""
    return _short(row, 0.0, 1.0)


def set_layer(seconds):
    """Make it the time of a layer, both ways; forward's stays as it is."""
    TRAINER["layer_backward_s"] = seconds - TRAINER["layer_forward_s"]


def of_forward(row):
    """Whether a row waits for a layer's issue in forward alone."""
    return _short(row, 1.0, 2.0)


def set_forward(seconds):
    """Make it the time of a layer forward; that of both ways stays as it is."""
    TRAINER["layer_backward_s"] += TRAINER["layer_forward_s"] - seconds
    TRAINER["layer_forward_s"] = seconds


def of_parts(row):
    """Whether a row waits for parts of parameters to be put where they belong."""
    return row.zero == 1 and row.pp == 1 and row.tp <= 8 and row.dp >= 32 and not held_up(row)


def set_part(seconds):
    """Make it the time of a part."""
    TRAINER["gathered_part_s"] = seconds


def _agrees(row):
    """Whether a row waits for agreements; up to 16 nodes, where most rows are of one mind."""
    long = row.accumulation >= max(MICRO_BATCHES, 4 * row.pp)
    waits = row.pp > 1 and 1 < row.nodes <= 16 and not held_up(row)
    return waits and row.micro_batch == 1 and long


def set_message(seconds):
    """Make it the time of a message of a pipeline."""
    WAITING["message_time"] = f"{seconds!r} s"


def of_messages(row):
    """Whether a row waits for messages of a pipeline."""
    return row.pp > 1 and held_up(row)


def of_hops(row):
    """Whether a row waits for hops: of its ranks of a matrix, or of many buckets of gradients."""
    buckets = row.zero == 0 and row.tp <= 8 and row.nodes >= 16
    return row.pp == 1 and not held_up(row) and (row.tp > 8 or buckets)


def set_latency(seconds):
    """Make it the latency of a switch."""
    MACHINE["switch_latency"] = f"{seconds!r} s"


FITS = (
    ("layer", "layer_forward_s layer_backward_s", TRAINER, of_layer, set_layer, 2e-3, 5e-3),
    ("layer forward", "layer_forward_s", TRAINER, of_forward, set_forward, 0.9e-3, 1.9e-3),
    ("part of a parameter", "gathered_part_s", TRAINER, of_parts, set_part, 6e-6, 20e-6),
    ("message in a node", "within_s", AGREEMENT, lambda r: _agrees(r) and r.tp in (2, 4, 8),
     lambda s: AGREEMENT.update(within_s=s), 30e-6, 90e-6),
    ("message between nodes", "between_s", AGREEMENT, lambda r: _agrees(r) and r.tp == 16,
     lambda s: AGREEMENT.update(between_s=s), 30e-6, 120e-6),
    ("message of a pipeline", "message_time", WAITING, of_messages, set_message, 0.2, 0.4),
    ("switch", "switch_latency", MACHINE, of_hops, set_latency, 100e-6, 200e-6),
)  # fmt: skip


def errors(found):
    """Log of predicted over measured time of each row, with the constants as they are."""
    trainer_named.cache_clear()
    measured.cache_clear()
    forget()
    out = []
    for layout in found:
        row = measured(layout)
        took = batch_on(row.workload).tokens_per_gpu / row.tokens_per_s_per_gpu
        out.append(math.log(run_step(row.topology, row.workload).time_s / took))
    return out


def level(put, found, low, high):
    """Where the mean of the errors is zero."""
    for _ in range(8):
        middle = (low + high) / 2
        put(middle)
        mean = statistics.fmean(errors(found))
        low, high = (middle, high) if mean < 0 else (low, middle)
    return low


def even(put, found, low, high):
    """Where the errors differ least, whatever their mean: that of other parts of a step."""
    spread = {}
    for k in range(STEPS + 1):
        tried = low + k * (high - low) / STEPS
        put(tried)
        spread[tried] = statistics.pstdev(errors(found))
    return min(spread, key=spread.get)


def cross(name, found, put, low, high):
    """Of each group, what rows outside it give, and how far off its own then are."""
    tried = np.linspace(low, high, 4)
    seen = []
    for value in tried:
        put(float(value))
        seen.append(errors(found))
    seen = np.array(seen)
    for what, of in GROUPS.items():
        for group in sorted({of(r) for r in found}):
            out = np.array([of(r) == group for r in found])
            if out.all():
                continue
            value = np.interp(0.0, seen[:, ~out].mean(axis=1), tried)
            left = [np.interp(value, tried, of_row) for of_row in seen[:, out].T]
            speed = np.exp(-np.array(left)) - 1.0
            print(
                f"{name} without {what} {group}: {1e6 * value:.3g} us; {out.sum()} rows, bias "
                f"{speed.mean():+.1%}, median {np.median(abs(speed)):.1%}"
            )


GROUPS = {
    "model": lambda r: r.model, "nodes": lambda r: r.nodes, "t": lambda r: r.tp,
    "p": lambda r: r.pp,
}  # fmt: skip


def main() -> None:
    """Print each fit and what is shipped, or what is without a group of rows."""
    for name, keys, data, of, put, low, high in FITS:
        values = [data[key] for key in keys.split()]
        shipped = sum(parse(v, "s") if isinstance(v, str) else v for v in values)
        if "--cross" in sys.argv:
            if of is not of_parts:
                cross(name, rows(of, held=True), put, low, high)
            put(shipped)
            continue
        found = rows(of)
        best = (even if of is of_parts else level)(put, found, low, high)
        put(best)
        left = errors(found)
        spread = math.sqrt(sum(e * e for e in left) / len(left))
        print(f"{name}: {1e6 * best:.3g} us of {len(left)} rows, {spread:.1%} left;"
              f" shipped: {1e6 * shipped:.3g} us")  # fmt: skip
        put(shipped)


if __name__ == "__main__":
    main()
