"""Memory that people measured or ran into, as they told it; each with its source.

Rows of allocated memory are within 10 %, verdicts are right.
"""

import pytest

from sim.inputs.loader import load
from sim.memory.report import memory

GIB = 2.0**30


def machine(gpu, gpus=1, nodes=1, cpu=None, **node):
    """Nodes of GPUs as a rented machine has them."""
    cpu = {"memory": "1 TB", "cores": 64} | (cpu or {})
    node = {"gpu": gpu, "gpus": gpus, "pcie": {"generation": 4}, "cpu": cpu} | node
    return {"name": "machine", "nodes": nodes, "node": node}


#: Llama 3.2 3B on one A100 80 GB, pure bf16, packed 2 x 4096. The row with compile alone keeps
#: eager logits. Source: meta-pytorch/torchtune README.md, table of optimisations.
LADDER = [
    (60.0, {}),
    (51.0, {"compile": True}),
    (42.9, {"compile": True, "loss": "chunked"}),
    (24.9, {"compile": True, "loss": "chunked", "activation_checkpointing": "full"}),
    (
        8.5,
        {
            "compile": True, "loss": "chunked", "activation_checkpointing": "full",
            "method": {"lora": {"rank": 8, "targets": "all-linear", "dropout": 0}},
        },
    ),
]  # fmt: skip


@pytest.mark.parametrize(("measured", "changes"), LADDER, ids=[str(row[0]) for row in LADDER])
def test_savings_on_one_gpu(measured, changes):
    job = {
        "name": "ladder", "model": "llama-3.2-3b", "sequence_length": 4096, "micro_batch": 2,
        "steps": 100, "precision": {"bf16": {"master": "bf16"}}, "attention": "flash2",
        "stack": {"torch": "2.6"},
    }  # fmt: skip
    found = load(machine("a100-sxm-80gb"), job | changes)
    assert found.workload.parallelism.strategy == "single"
    allocated = memory(found.topology, found.workload).peak_allocated_bytes / GIB
    assert allocated == pytest.approx(measured, rel=0.1)
