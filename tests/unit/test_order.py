"""Whatever ran before changes no number: what is kept between steps has the key it needs."""

import json
import subprocess
import sys

from sim.inputs.loader import load
from sim.step.step import step

MACHINE, JOB = "dgx-h100", "llama3-8b-sft"
STRATEGIES = (
    ("parallelism.strategy=fsdp2", "parallelism.offload=all"),
    ("parallelism.strategy=zero3", "parallelism.offload=all"),
)
KNOBS = (
    "optimizer=sgd", "optimizer=adamw-8bit", "optimizer_implementation=foreach", "micro_batch=1",
    "sequence_length=4096", "gradient_accumulation=2", "compile=true", "attention=triton",
    "loss=fused-linear", "precision=fp16", "precision={bf16: {master: bf16}}",
    "precision={fp8: {recipe: tensorwise}}", "stack.torch=2.9", "stack.nccl=2.27",
    "activation_checkpointing=full", "activation_checkpointing={selective: op}",
    "checkpoint.mode=full", "checkpoint.asynchronous=true", "method={lora: {rank: 8}}",
    "method={qlora: {rank: 16, quantization: nf4}}", "node.gpu.power_limit=400 W", "nodes=2",
)  # fmt: skip
JOBS = [(*strategy, knob) for strategy in STRATEGIES for knob in KNOBS]


def figures(sets):
    """Step time and memory of a job. [s], [B]"""
    loaded = load(MACHINE, JOB, ("model=llama-3.2-1b", *sets))
    found = step(loaded.topology, loaded.workload)
    return [found.time_s, found.memory.peak_reserved_bytes]


def in_a_process_of_its_own(*, backwards):
    code = (
        "import json; from tests.unit.test_order import JOBS, figures; "
        f"print(json.dumps([figures(sets) for sets in JOBS[::{-1 if backwards else 1}]]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    return found[::-1] if backwards else found


def test_the_order_of_jobs_changes_no_number():
    first, last = (in_a_process_of_its_own(backwards=way) for way in (False, True))
    assert dict(zip(JOBS, first, strict=True)) == dict(zip(JOBS, last, strict=True))
