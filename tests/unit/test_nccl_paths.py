"""NCCL's paths through registered buffers: what they take, how many SMs, and what they save."""

import pytest

import sim
from sim.cost.collectives import plan_collective
from sim.cost.nccl.communicator import Nccl
from sim.errors import InputError
from sim.fabric.fabric import compile_fabric
from sim.inputs.checks import check
from sim.inputs.loader import load, load_topology
from sim.result.advice import changes

GIB = 2**30
H100 = compile_fabric(load_topology("dgx-h100"))
A100 = compile_fabric(load_topology("dgx-a100"))
TWO = compile_fabric(load_topology("dgx-h100", ["nodes=2"]))


def plan(op, size=GIB, path="plain", version="2.28", fabric=H100):
    return plan_collective(fabric, op, range(fabric.n_ranks), size, Nccl(version, path))


@pytest.mark.parametrize(
    ("path", "op", "algorithm", "channels"),
    [
        ("plain", "all_gather", "ring", 24),
        ("registered", "all_gather", "nvls", 4),  # 32 heads / 8 GPUs
        ("registered", "reduce_scatter", "nvls", 5),  # 40 / 8
        ("registered", "all_reduce", "nvls", 4),
        ("symmetric", "all_gather", "symmetric", 8),  # 320 GiB/s of 44 a channel
        ("symmetric", "all_reduce", "symmetric", 8),  # 480 of 65
        ("copy-engine", "all_gather", "copy_engine", 0),
        ("copy-engine", "all_to_all", "copy_engine", 0),
        ("copy-engine", "reduce_scatter", "symmetric", 8),
    ],
)
def test_what_runs_and_how_many_sms_it_holds(path, op, algorithm, channels):
    cost = plan(op, path=path)
    assert (cost.algorithm, cost.channels) == (algorithm, channels)


def test_symmetric_kernels_reach_nccls_own_peaks():
    """320 GiB/s of bus bandwidth for gathers, 480 for all-reduce (src/sym_kernels.cc), 7.8 us."""
    assert plan("all_gather", 16 * GIB, "symmetric").busbw_bytes_per_s == pytest.approx(
        320 * GIB, rel=0.01
    )
    assert plan("all_reduce", 16 * GIB, "symmetric").busbw_bytes_per_s == pytest.approx(
        480 * GIB, rel=0.01
    )
    assert plan("all_gather", 8, "symmetric").time_s == pytest.approx(7.8e-6, rel=1e-3)


@pytest.mark.parametrize("path", ["registered", "symmetric", "copy-engine"])
@pytest.mark.parametrize("fabric", [A100, TWO])
def test_elsewhere_nccl_does_as_always(path, fabric):
    """Two nodes, or a GPU whose switches do not reduce and for which NCCL has no numbers."""
    if path == "copy-engine" and fabric is A100:
        return
    assert plan("all_gather", path=path, fabric=fabric) == plan("all_gather", fabric=fabric)


def test_never_faster_than_the_wire():
    for path in ("registered", "symmetric", "copy-engine"):
        for op in ("all_gather", "reduce_scatter", "all_reduce"):
            for size in (2**16, 2**24, 2**33):
                cost = plan(op, size, path)
                assert cost.work / cost.time_s <= cost.wire_bytes_per_s


def test_what_nccl_is_too_old_for_is_refused():
    with pytest.raises(InputError, match=r"nccl-symmetric needs NCCL 2\.27"):
        load("dgx-h100", "llama3-8b-sft", ["stack.nccl_path=symmetric"])
    load("dgx-h100", "llama3-8b-sft", ["stack.nccl_path=registered"])


@pytest.mark.parametrize(
    ("topology", "settings", "said"),
    [
        ("dgx-h100", ["nodes=2"], "every collective crosses nodes"),
        ("dgx-a100", [], "it needs an NVSwitch that reduces"),
    ],
)
def test_where_it_does_nothing_it_says_so(topology, settings, said):
    job = load(topology, "llama3-8b-sft", [*settings, "stack.nccl_path=registered"])
    found = [f for f in check(job.topology, job.workload) if f.code == "no-effect"]
    assert [said in f.message for f in found] == [True]
    inside = [*settings, "stack.nccl_path=registered", "parallelism.replicate=2"]
    if topology == "dgx-h100":
        job = load(topology, "llama3-8b-sft", inside)
        assert not [f for f in check(job.topology, job.workload) if f.code == "no-effect"]


def test_fewer_sms_leave_more_to_kernels():
    """The same bytes by copy engines: kernels beside them lose no SM."""
    job = ["stack.nccl=2.28", "activation_checkpointing.kind=full"]
    plain = sim.simulate("dgx-h100", "llama3-8b-sft", overrides=job)
    engines = sim.simulate(
        "dgx-h100", "llama3-8b-sft", overrides=[*job, "stack.nccl_path=copy-engine"]
    )
    assert engines.step.overlap_slowdown_s < 0.7 * plain.step.overlap_slowdown_s
    assert engines.step.time_s < plain.step.time_s


def test_it_is_worth_a_try_where_it_can_run():
    job = load("dgx-h100", "llama3-8b-sft", ["stack.nccl=2.28"])
    tried = {
        c.settings.get("stack.nccl_path") for c in changes(job.topology, job.workload, "faster")
    }
    assert {"registered", "symmetric", "copy-engine"} <= tried
    two = load("dgx-h100", "llama3-8b-sft", ["stack.nccl=2.28", "nodes=2"])
    tried = {
        c.settings.get("stack.nccl_path") for c in changes(two.topology, two.workload, "faster")
    }
    assert tried == {None}
