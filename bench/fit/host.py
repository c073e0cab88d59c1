"""CPU times that only whole runs tell: a wrapper's calls, a trainer's own work, a fleet's cores.

    python bench/fit/host.py            # the fit, and what leaving groups out does
    python bench/fit/host.py --every 2  # on every second row

Counts are recorded (sim/data/host), launches known from decoding (host.toml); free are one price
for all that hooks do, the Hugging Face Trainer's time a micro-step and a step, and the speed of the
cores of the fine-tuning fleet's A100 SXM nodes. Rows: small batches on these nodes, the
launch-bound rows of Qwen. Gauss-Newton on the logarithm of the time with a prior a factor of two
wide around round guesses.
"""

import argparse
import math

import numpy as np

from sim.calibration.validate_finetune import machine_of, method_of
from sim.cost.host import host_model, known_calls
from sim.data import table
from sim.inputs.shares import batch_on
from sim.inputs.trainer import trainer_named
from sim.published.finetune import finetune_rows
from sim.published.rows import training_rows
from sim.step.kept import forget
from sim.step.step import step

TOKENS = 4096  # a micro-step: above, GPUs set the pace
HOOKS = {"python": 1e-6, "operators": 5e-6, "streams": 3e-6}  # 1 : 5 : 3 [s]
GUESS = (HOOKS["python"], 4e-3, 30e-3, 0.5)  # where the prior stands
SHIPPED = (
    table("constants/host")["prices"]["python"],
    table("trainers")["huggingface"]["micro_step_s"],
    table("trainers")["huggingface"]["step_s"],
    table("measured/finetune")["machines"]["a100-sxm"]["node"]["cpu"]["speed"],
)
PRIOR = 0.5 / math.log(2) ** 2
NAMES = ("hooks", "micro_step_s", "step_s", "speed")


def rows(every):
    """Rows that the host decides."""
    found = [
        r for r in finetune_rows()
        if r.group == "finetune" and r.status == "complete" and method_of(r) != "gptq"
        and machine_of(r).startswith("a100-sxm") and r.topology.nodes == 1
        and r.workload.sequence_length * r.workload.micro_batch <= TOKENS
    ]  # fmt: skip
    qwen = [r for r in training_rows() if r.group == "qwen"]
    return found[::every] + [r for r in qwen if r.workload.sequence_length <= 1024]


def use(factors):
    """Put trial values in place of the data files', and forget what others gave."""
    hooks, micro, whole, _ = factors
    prices, trainer = table("constants/host")["prices"], table("trainers")["huggingface"]
    prices.update({name: hooks * price for name, price in HOOKS.items()})
    trainer.update(micro_step_s=micro * GUESS[1], step_s=whole * GUESS[2])
    for kept in (known_calls, host_model, trainer_named):
        kept.cache_clear()
    forget()


def moved(topology, speed):
    """The machine with cores of a speed."""
    cpu = topology.node.cpu.model_copy(update={"speed": speed})
    return topology.model_copy(update={"node": topology.node.model_copy(update={"cpu": cpu})})


def errors(chosen, logs):
    """Log of predicted over measured time, (rows,)."""
    factors = np.exp(logs)
    use(factors)
    out = []
    for row in chosen:
        w = row.workload
        topology = (
            moved(row.topology, GUESS[3] * factors[3]) if row.group == "finetune" else row.topology
        )
        measured = batch_on(w).tokens_per_rank / row.tokens_per_s_per_gpu
        out.append(math.log(step(topology, w).time_s / measured))
    return np.array(out)


def fit(chosen, rounds=4):
    """Logs of the factors on the guesses, that fit some rows best."""
    x = np.zeros(len(NAMES))
    for _ in range(rounds):
        e = errors(chosen, x)
        slopes = np.stack([(errors(chosen, x + d) - e) / 0.1 for d in 0.1 * np.eye(len(x))], axis=1)
        weight = 1 / np.maximum(np.abs(e), 0.05)  # towards the median: some rows err elsewhere
        a = slopes.T @ (weight[:, None] * slopes) + PRIOR * np.eye(len(x))
        x -= np.clip(np.linalg.solve(a, slopes.T @ (weight * e) + PRIOR * x), -0.5, 0.5)
    return x


def shown(x):
    """Values that factors stand for."""
    python, micro, whole, speed = np.exp(x) * GUESS
    trainer = f"micro-step {1e3 * micro:.1f} ms, step {1e3 * whole:.0f} ms"
    return f"python {1e6 * python:.2f} us, {trainer}, speed {speed:.2f}"


def size(e):
    """Mean and median of absolute errors."""
    e = np.abs(np.expm1(e))
    return f"{e.mean():.1%} / {np.median(e):.1%}"


def main():
    """Print the fit, and fits without each group, tried on it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--every", type=int, default=1, help="of the rows, every so many")
    parser.add_argument("--all-only", action="store_true", help="leave no groups out")
    args = parser.parse_args()
    chosen = rows(args.every)
    shipped = np.log(np.divide(SHIPPED, GUESS))
    print(f"{len(chosen)} rows, as shipped {size(errors(chosen, shipped))}")
    best = fit(chosen)
    e = errors(chosen, best)
    print(f"fit: {shown(best)}; {size(e)}")
    groups = {
        "model": lambda r: r.workload.model.name, "method": method_of,
        "GPUs": lambda r: "one" if r.gpus == 1 else "several",
        "campaign": lambda r: r.workload.gradient_accumulation,
    }  # fmt: skip
    for key, of in groups.items():
        for value in sorted({of(r) for r in chosen}, key=str):
            mine = np.array([of(r) == value for r in chosen])
            print(f"  {key} {value}: {mine.sum()} rows, fitted with all {size(e[mine])}", end="")
            if args.all_only or mine.all():
                print()
                continue
            x = fit([r for r, m in zip(chosen, mine, strict=True) if not m], rounds=3)
            left = [r for r, m in zip(chosen, mine, strict=True) if m]
            print(f", without {size(errors(left, x))}: {shown(x)}")


if __name__ == "__main__":
    main()
