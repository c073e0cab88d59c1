"""One GPU without a strategy: nothing is wrapped, and the same job spreads as fsdp2."""

import pytest

from sim import simulate
from sim.errors import InputError
from sim.inputs.loader import load
from sim.inputs.modelling import experts, modelling_name
from sim.inputs.models import resolve_model
from sim.inputs.scaled import at_nodes
from sim.inputs.workload import Parallelism, Workload
from sim.memory.report import memory
from sim.report.run import scaling_table

JOB = {"name": "j", "model": "llama-3.2-1b", "sequence_length": 1024, "steps": 10}


def test_a_job_without_parallelism_on_one_gpu():
    found = load("h100-x1", JOB)
    assert found.workload.parallelism == Parallelism(strategy="single")
    assert "workload.parallelism.strategy = single" in found.notes.assumptions()
    assert load("dgx-h100", JOB).workload.parallelism == Parallelism()


def test_what_is_written_is_kept():
    assert load("h100-x1", JOB | {"parallelism": "fsdp2"}).workload.parallelism == Parallelism()
    job = Workload(name="j", model=resolve_model("llama-3.2-1b"), sequence_length=1024, steps=10)
    assert load("h100-x1", job).workload.parallelism == Parallelism()


def test_it_is_ddp_on_one_gpu():
    alone = load("h100-x1", JOB)
    ddp = load("h100-x1", JOB | {"parallelism": "ddp"})
    assert memory(*alone[:2]).terms == memory(*ddp[:2]).terms


def test_it_does_not_train_on_more():
    with pytest.raises(InputError, match="single trains on one GPU, and the machine has 8"):
        load("dgx-h100", JOB | {"parallelism": "single"})
    with pytest.raises(InputError, match="single has no such knob"):
        load("h100-x1", JOB | {"parallelism": {"strategy": "single", "bucket_cap_mb": 50}})


def test_on_more_nodes_it_is_fsdp2():
    found = load("h100-x1", JOB, ["node.nics={count: 1, rate: 400 Gb/s, kind: infiniband}"])
    moved = at_nodes(found.topology, found.workload, 2)
    assert moved is not None
    assert moved[1].parallelism == Parallelism()
    assert (moved[1].trainer, found.workload.trainer) == ("accelerate", None)


def test_its_scaling_is_of_one_code():
    """A mixture's loop, and Hugging Face's model, on every number of GPUs: no gain by a change."""
    keys = JOB | {"model": "granite-3.1-1b-a400m", "stack": {"torch": "2.8"}, "method": "lora"}
    nics = "node.nics={count: 1, rate: 400 Gb/s, kind: infiniband}"
    found = simulate("h100-x1", keys, overrides=[nics], fixes=False)
    assert found.scaling is not None
    one, *more = found.scaling.curve
    assert one.strategy == ""
    assert {p.strategy for p in more} == {"fsdp2"}
    assert all(p.efficiency <= p.ideal_efficiency < 1.05 for p in more)
    said = [row[-1] for row in scaling_table(found.scaling).rows]
    assert ["as fsdp2" in str(cell) for cell in said] == [p.gpus > 1 for p in (one, *more)]
    w = load("h100-x1", keys, [nics])
    there = at_nodes(w.topology, w.workload, 2)
    assert there is not None
    assert modelling_name(there[1]) == modelling_name(w.workload) == "huggingface"
    assert experts(there[1]) == experts(w.workload) != "grouped"
