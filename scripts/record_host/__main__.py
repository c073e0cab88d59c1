"""Record the host side of real training code on a CPU; see docs/recordings.md.

pip install torch==2.13.0 transformers==4.45.2 peft==0.13.2 accelerate==1.0.1 "numpy<2"
pip install deepspeed==0.19.8  # for trainers
python scripts/record_host modelling > sim/data/host/modelling.json
python scripts/record_host older > sim/data/host/modelling-torch-2.4.json  # with torch 2.4.1
python scripts/record_host updates > sim/data/host/updates.json
python scripts/record_host wrappers > sim/data/host/wrappers.json
python scripts/record_host seconds > sim/data/host/seconds.json
python scripts/record_host trainers > sim/data/host/trainers.json
python scripts/record_host sequences > tests/data/fsdp1_accumulation.json
"""

from __future__ import annotations

import concurrent.futures
import importlib.metadata
import json
import multiprocessing
import sys
from typing import Any

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "trl", "deepspeed")

MODELLING = {
    "layer": "what each further decoder layer adds (three layers less two)",
    "rest": "what two layers leave over: embedding, position tables, final norm, head, loss. Below "
    "zero where the first layer has less to do than another (frozen embedding: no gradient for "
    "its input)",
    "forward, recompute, backward": "phases; recompute: a checkpointed layer's second forward. "
    "backward is what remains of backward. Absent: nothing ran",
    "kernels": "launches on CUDA: operators that launch nothing there (views, allocations) not "
    "counted, those of several kernels so many times (LAUNCHES in scripts/record_host/counting.py)",
    "gemms": "matrix products among them",
    "operators": "all that went through PyTorch's dispatcher, views and allocations too",
    "modules": "calls of nn.Module.__call__",
    "waits": "by place: operators after which the host knows a value of the device (.item(), "
    "bool(tensor), nonzero), so that no later kernel is launched before all earlier ones are done",
    "names": "kernels by operator; flash_forward and flash_backward stand for flash-attn 2.7, "
    "sum_heads for its sums of dk and dv where heads share keys",
    "nodes": "autograd nodes that the loss reaches, gradient accumulators included",
    "attention_mask": "given, all ones (padding: the last three of the first sequence zero)",
    "master": "dtype of the weights; autocast to bf16 or not",
    "methods": "lora: r=4 on the projections that the reference fine-tuning runs adapt, alpha 16",
}
WRAPPERS = {
    "ranks": "eight; the group is imagined, so that a collective costs nothing and moves nothing",
    "policy": "blocks: each decoder layer is a unit; peft: fsdp_auto_wrap_policy of PEFT",
    "micro_step": "of two to a step, after a first step: accumulating (under no_sync, or without "
    "gradient synchronisation, where no_sync says so), last; clip: gradient clipping after it",
    "layer, rest": "as in modelling: what each decoder layer adds to the bare model, and the rest",
    "units": "groups of parameters that are gathered or reduced together",
    "python_calls": "Python functions entered inside torch.distributed (or DeepSpeed)",
    "hooks": "those among them that are hooks or what hooks do to a unit",
    "streams": "asked of the device handle: the current stream, another stream entered, events "
    "recorded, waited for by a stream (wait_event, wait_stream) or by the host (synchronize)",
    "collectives": "issued, by kind",
    "kernels, names, operators": "more than the bare model's (less: below zero): copies, casts, "
    "gradients summed into one flat tensor in place of many",
}
SECONDS = {
    "unit": "all times in units: the CPU time of torch.add of two tensors of eight values without "
    "gradient on the same machine (row reference, in seconds)",
    "calls": "single calls; operator_with_gradient and operator_in_backward of an elementwise one; "
    "module_call without its forward; autocast_linear, peft_linear: more than the linear alone; "
    "checkpoint: around a module that does nothing, forward; collectives: of an imagined group",
    "updates": "an optimizer's step, clipping and zero_grad over so many tensors",
    "layer, rest": "of a last micro-step, in fp32 on one sequence of twelve tokens: what a decoder "
    "layer takes (seven layers less two, divided by five) and what two layers leave over",
}
TRAINERS = {
    "loop": "a real loop over a tiny Llama, one sample of 16 tokens a micro-step, nothing sent; "
    "accumulation: micro-steps a step; clip: maximal norm; the loss is read or logged every step",
    "waits": "host waits a step by place, those of modelling code and of step counters left out; "
    "the loop: reading the loss",
    "layer, rest": "CPU time a step in the units of seconds.json, by part, of what is neither "
    "forward, backward nor the optimizer's step: what each decoder layer adds (modules and tensors "
    "in row size), and the rest",
    "own": "what no other part has: data loader, accelerator, the loop itself",
    "collation": "padding so many samples of a length into a batch, CPU time in units",
    "size": "modules and parameters of a layer of that Llama",
    "read": "from source, not run: waits and collectives each so many steps",
}
OLDER = {
    "rows": "cases of modelling.json in which this torch launches other kernels; "
    "the others are equal",
    "kernels": "more than there, by operator beside it",
}
SEQUENCES = {
    "ops": "collectives of the second step of two micro-steps and clipping: kind, phase (a second "
    "forward is forward to FSDP), unit, bytes in and out, dtype, ranks",
    "model": "Llama of three layers in bf16: LoRA r=4 on q and v, PEFT's wrap policy, eight ranks; "
    "the checkpoint around the sharded layer",
}
UPDATES = {
    "lists": "kernels over lists of tensors, each once per chunk of a list on CUDA",
    "fixed": "kernels a step, whatever the number of tensors",
    "tensor": "kernels a step and tensor",
    "host_operators_tensor": "operators a step and tensor on the step counters, which lie in host "
    "memory and launch nothing",
}


def versions() -> dict[str, str]:
    """Of the libraries that run."""
    found = {"python": sys.version.split()[0]}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write(what: str, meaning: dict[str, str], rows: list[dict[str, Any]]) -> None:
    """A JSON document, one row a line."""
    head = {"command": f"python scripts/record_host {what}", "versions": versions(),
            "meaning": meaning}  # fmt: skip
    lines = ",\n".join(json.dumps(row) for row in rows)
    sys.stdout.write(f'{json.dumps(head, indent=1)[:-2]},\n "rows": [\n{lines}\n]}}\n')


def modelling() -> None:
    """Kernels of modelling code."""
    import flash

    flash.install()
    import modelling as m

    write("modelling", MODELLING, [case | m.record(case) for case in m.cases()])


def older() -> None:
    """Under an older torch: rows of `modelling` whose kernels differ, and how."""
    import pathlib

    import flash

    flash.install()
    import modelling as m

    shipped = pathlib.Path(__file__).parents[2] / "sim/data/host/modelling.json"
    rows = []
    for known in json.loads(shipped.read_text())["rows"]:
        case = {k: v for k, v in known.items() if k not in ("layer", "rest")}
        found, differ = m.record(case), {}
        for part in ("layer", "rest"):
            for phase in m.PHASES:
                one, two = (x[part].get(phase, {}).get("names", {}) for x in (known, found))
                names = {k: two.get(k, 0) - one.get(k, 0) for k in sorted(one | two)}
                if any(names.values()):
                    names = {k: v for k, v in names.items() if v}
                    differ.setdefault(part, {})[phase] = {"kernels": sum(names.values())} | names
        if differ:
            rows.append(case | differ)
    write("older", OLDER, rows)


def sequences() -> None:
    """Collectives of FSDP1 with adapters, in order."""
    import flash

    flash.install()
    import sequences as q

    write("sequences", SEQUENCES, q.record())


def updates() -> None:
    """Kernels of optimizers and clipping."""
    import updates as u

    write("updates", UPDATES, [u.record(*case) for case in u.cases()])


def wrappers() -> None:
    """What FSDP and DDP add."""
    import flash

    flash.install()
    import wrappers as w

    write("wrappers", WRAPPERS, [row for case in w.cases() for row in w.record(case)])


def seconds() -> None:
    """CPU time."""
    import flash

    flash.install()
    import seconds as s

    write("seconds", SECONDS, s.record())


def trainers() -> None:
    """Work of training loops."""
    import flash

    flash.install()
    import trainers as t

    # a process for each trainer: DeepSpeed and Accelerate do not share one
    apart = {"mp_context": multiprocessing.get_context("spawn"), "max_tasks_per_child": 1}
    with concurrent.futures.ProcessPoolExecutor(1, **apart) as pool:
        loops = list(pool.map(t.record, t.cases(), chunksize=4))
    write("trainers", TRAINERS, [t.size(), *loops, *t.collation(), *t.read()])


if __name__ == "__main__":
    {
        "modelling": modelling,
        "updates": updates,
        "older": older,
        "sequences": sequences,
        "wrappers": wrappers,
        "seconds": seconds,
        "trainers": trainers,
    }[sys.argv[1]]()
