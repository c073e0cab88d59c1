"""Better machines are not slower, parts are not negative: a sample of `bench.monotone`."""

from itertools import islice

import pytest

from bench.monotone import KNOBS, broken, jobs
from sim.inputs.loader import load
from sim.step.run import run_step
from sim.step.step import step


def test_a_better_machine_is_not_slower():
    """1,000 jobs x 12 knobs were run once; docs/decisions/0008-one-step.md has what they found."""
    assert [str(fault) for job in jobs(12, seed=3) for fault in broken(job)] == []


def test_a_faster_gpu_is_not_slower_for_copies_beside_copies():
    """Two side streams cast beside an all-gather: each counted its own SMs as gone (4 % slower)."""
    (job,) = islice(jobs(27, seed=202), 26, None)
    assert job.workload.parallelism.strategy == "fsdp1"
    law = "twice the peaks"
    assert [str(fault) for fault in broken(job, {law: KNOBS[law]})] == []


def found(gpu, generation, links, gpus, **workload):
    machine = {
        "name": "m", "node": {
            "gpu": gpu, "gpus": gpus, "pcie": {"generation": 4}, "nics": {"count": 8},
            "nvlink": {"generation": generation, "links_per_gpu": links, "fabric": "nvswitch"},
        },
    }  # fmt: skip
    job = {"name": "w", "model": "gpt2-xl", "sequence_length": 512, "steps": 10}
    return load(machine, job | workload)


RATE_LIMITER = found(
    "a100-sxm-80gb", 3, 12, 4, micro_batch=1, compile=False, parallelism="fsdp1"
)  # fmt: skip
LATE_HOST = found(
    "h100-sxm-80gb", 4, 18, 8, micro_batch=4, compile=True, activation_checkpointing="full",
    parallelism={"strategy": "fsdp2", "reshard_after_forward": False},
)  # fmt: skip
#: at four blocks the host waits for the last gradients before it clips, at eight it comes later
LATE_UPDATE = found(
    "h200-sxm-141gb", 4, 18, 8, gradient_accumulation=4, compile=False, attention="eager",
    activation_checkpointing="full",
    parallelism={"strategy": "fsdp1", "limit_all_gathers": False},
)  # fmt: skip


@pytest.mark.parametrize(
    "job", [RATE_LIMITER, LATE_HOST, LATE_UPDATE], ids=["rate limiter", "late host", "late update"]
)
def test_blocks_that_have_not_settled_are_all_simulated(job):
    """4 and 8 blocks look even: 4.8 % short, and 14 % where the host is ahead until the update."""
    whole = run_step(job.topology, job.workload).time_s
    assert abs(step(job.topology, job.workload).time_s / whole - 1) < 1e-4
