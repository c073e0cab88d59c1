"""Better machines are not slower, parts are not negative: a sample of `bench.monotone`."""

from types import SimpleNamespace

import pytest

from bench.drawn import cut, jobs, terms, varied
from bench.knobs import KNOBS
from bench.monotone import Tally, broken, broken_terms
from sim.cost.communicators import communicator
from sim.cost.nccl.rings import ring_channels
from sim.fabric import compile_fabric
from sim.inputs.loader import load, load_topology
from sim.lowering.collectives import Name, algorithms_of
from sim.step.run import run_step
from sim.step.step import step
from sim.step.transfers import ASIDE


def test_a_better_machine_is_not_slower():
    """Thousands of jobs were run once; docs/decisions/0008-one-step.md has what they found."""
    assert [str(fault) for job in jobs(8, seed=3) for fault in broken(job)] == []


@pytest.mark.parametrize("drawn", [cut, varied])
def test_nor_where_it_is_cut_or_of_another_kind(drawn):
    assert [str(fault) for job in jobs(2, 4, drawn) for fault in broken(job)] == []


def test_better_terms_and_better_luck_take_no_longer_and_cost_no_more():
    """Nodes reclaimed half as often took 6 % longer, and capacity at once 53 %."""
    assert [str(fault) for job in jobs(40, 3, terms) for fault in broken_terms(job)] == []


def test_a_worse_machine_is_found_out():
    """The laws can be broken: half the peaks are slower, half the memory does not fit."""
    job = found("h100-sxm-80gb", 4, 18, 8, micro_batch=4, model="llama-3-8b", sequence_length=1024)

    def worse(name, share):
        def change(machine):
            gpu = machine.first_gpu.model_copy(
                update={name: share * getattr(machine.first_gpu, name)}
            )
            node = machine.node.model_copy(update={"gpu": gpu})
            return machine.model_copy(update={"node": node})

        return change

    knobs = {"peaks": worse("peak_bf16", 0.5), "memory": worse("memory", 0.1)}
    laws = [fault.law for fault in broken(job, knobs)]
    assert laws[:1] == ["peaks"]
    assert laws[-1] == "memory: no longer fits"


def test_a_faster_gpu_is_not_slower_for_copies_beside_copies():
    """Two side streams cast beside an all-gather: each counted its own SMs as gone (4 % slower)."""
    machine = {
        "name": "m", "node": {
            "gpu": "a100-pcie-80gb", "gpus": 2, "pcie": {"generation": 4, "gpus_per_switch": 2},
            "cpu": {"vendor": "amd"},
        },
    }  # fmt: skip
    job = load(machine, {
        "name": "w", "model": "gpt2-xl", "sequence_length": 512, "micro_batch": 2,
        "gradient_accumulation": 2, "steps": 100, "attention": "sdpa", "compile": True,
        "activation_checkpointing": "full", "parallelism": {"strategy": "fsdp1"},
        "method": {"kind": "lora", "rank": 16, "targets": ["q", "k", "v", "o", "up", "down"]},
    })  # fmt: skip
    law = "twice the peaks"
    assert [str(fault) for fault in broken(job, {law: KNOBS[law]})] == []


def test_a_step_is_longer_by_no_more_than_what_the_result_says():
    """Half the sequence, 1.4 % longer: copies before gathers fall beside products that HBM bounds.

    With a law that knows nothing of those copies it is a fault.
    """
    machine = {
        "name": "m", "node": {
            "gpu": "h100-pcie-80gb", "gpus": 2, "pcie": {"generation": 5},
            "nvlink": {"generation": 4, "links_per_gpu": 12, "fabric": "pairs"},
        },
    }  # fmt: skip
    base = load(machine, {
        "name": "w", "model": "mixtral-8x7b", "sequence_length": 512, "micro_batch": 2,
        "gradient_accumulation": 4, "steps": 10, "attention": "flash2", "compile": False,
        "parallelism": "fsdp2", "method": {"lora": {"rank": 16, "targets": "all-linear"}},
    })  # fmt: skip
    half = base.workload.model_copy(update={"sequence_length": 256})
    before, after = (step(base.topology, workload) for workload in (base.workload, half))
    assert 1.01 < after.time_s / before.time_s < 1.02
    lost = [report.breakdown.transfers[ASIDE] for report in (before, after)]
    assert after.time_s - before.time_s < lost[1] - lost[0] < 1.2 * (after.time_s - before.time_s)
    tally = Tally()
    assert list(broken(base, {"twice the SMs": KNOBS["twice the SMs"]}, tally)) == []
    assert tally == Tally(asked=1, explained=1)


def test_kernels_that_lose_less_while_the_step_waits_for_a_host_do_not_hide_what_others_lose():
    """Twice NVLink, 3.7 % longer: reductions leave the products and meet copies into buckets.

    Products that a host launches late gain nothing by it; the net of both is half of the growth.
    """
    job = found(
        "b200-sxm-180gb", 5, 18, 2, model="mixtral-8x7b", micro_batch=2, gradient_accumulation=4,
        parallelism={"strategy": "ddp", "gradient_as_bucket_view": False},
        activation_checkpointing="full", compile=False,
    )  # fmt: skip
    law = "twice the NVLink rate"
    machines = job.topology, KNOBS[law](job.topology)
    reports = [step(topology, job.workload) for topology in machines]
    before, after = (report.breakdown.slowed for report in reports)
    longer = reports[1].time_s - reports[0].time_s
    assert longer > 0.03 * reports[0].time_s
    assert sum(after.values()) - sum(before.values()) < 0.6 * longer
    more = {kind: after[kind] - before[kind] for kind in ("gemm", "attention", "copy")}
    assert more["gemm"] < 0.0
    assert more["attention"] + more["copy"] > 0.95 * longer
    assert list(broken(job, {law: KNOBS[law]})) == []


def found(gpu, generation, links, gpus, **workload):
    machine = {
        "name": "m", "node": {
            "gpu": gpu, "gpus": gpus, "pcie": {"generation": 4}, "nics": {"count": 8},
            "nvlink": {"generation": generation, "links_per_gpu": links, "fabric": "nvswitch"},
        },
    }  # fmt: skip
    job = {"name": "w", "model": "gpt2-xl", "sequence_length": 512, "steps": 10}
    return load(machine, job | workload)


def test_half_the_nodes_are_no_better_where_gpus_would_share_a_switch():
    """One GPU with a switch and two NICs to itself has 1 NIC beside a second one."""
    wider = KNOBS["half the nodes, twice as wide"]
    for per_switch, gpus in ((1, 2), (2, None)):
        machine = {
            "name": "m", "nodes": 2, "node": {
                "gpu": "h200-sxm-141gb", "gpus": 1, "nics": {"count": 8},
                "nvlink": {"generation": 4, "links_per_gpu": 18, "fabric": "nvswitch"},
                "pcie": {"generation": 5, "gpus_per_switch": per_switch, "nics_per_switch": 2},
            },
        }  # fmt: skip
        better = wider(load_topology(machine))
        assert (better and better.node.gpus) == gpus


def test_up_to_what_size_nccl_takes_what_is_said():
    """Twice the NIC rate, and it takes LL for larger messages, also where a leaf's uplinks are no
    faster (8B under ZeRO-3 on 64 L40S, 4 to 1 oversubscribed, 1.6 % slower): the result tells."""

    def said(*taken):
        sizes = (8192.0, 2097152.0, 7340032.0, 1e9)
        costs = {
            Name("all_gather", "shard", size, 0): SimpleNamespace(
                algorithm="ring", protocol=protocol, channels=channels
            )
            for size, (protocol, channels) in zip(sizes, taken, strict=True)
        }
        return algorithms_of(costs)["all_gather"]

    slow, fast = ("ll", 1), ("simple", 2)
    assert said(slow, slow, fast, fast) == ("ring ll 1 ch to 2.1 MB", "ring simple 2 ch")
    assert said(slow, slow, slow, fast) == ("ring ll 1 ch to 7.34 MB", "ring simple 2 ch")
    assert said(slow, fast, slow, fast)[1:3] == (
        "ring simple 2 ch to 2.1 MB", "ring ll 1 ch to 7.34 MB",
    )  # fmt: skip
    assert said(fast, fast, fast, fast) == ("ring simple 2 ch",)
    assert said(("", 0), fast, fast, fast) == ("ring simple 2 ch",)  # copies take none


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


def test_a_nic_faster_than_the_bus_before_it_has_no_more_channels():
    """NCCL's search follows the way from the GPU: 400 Gb/s beside PCIe 5 is all of it already.

    Twice the line rate had twice the channels, and kernels lost their SMs to them.
    """
    base = load("dgx-h100", "llama3-8b-sft").topology
    found = []
    for rate in (400, 800, 1600):
        nics = base.node.nics.model_copy(update={"rate": rate * 1e9 / 8})
        node = base.node.model_copy(update={"nics": nics})
        fabric = compile_fabric(base.model_copy(update={"nodes": 2, "node": node}))
        found.append(ring_channels(communicator(fabric, (0, 8), "2.27")))
    assert found[0] == found[1] == found[2] > 0
