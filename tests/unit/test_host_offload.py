"""Host memory and host processors: what offloading and loading take."""

import pytest

from sim import simulate
from sim.blocks.optimizer import OPTIMIZERS
from sim.blocks.parameters import build_tree, count_parameters
from sim.blocks.update import host_update_bytes, optimizer_kernels, shard_of
from sim.cost.host_update import host_rate, threads_of, update_s, update_slowdown
from sim.inputs.gpu import Gpu
from sim.inputs.loader import load
from sim.inputs.method import Method
from sim.inputs.models import resolve_model
from sim.inputs.shares import mesh_on
from sim.inputs.topology import Cpu, Node, Pcie, Topology
from sim.inputs.trainer import trainer_of
from sim.inputs.workload import (
    Checkpointing,
    CheckpointSave,
    Parallelism,
    Precision,
    Stack,
    Workload,
)
from sim.job.basis import checkpoint_bytes
from sim.memory.report import memory
from sim.memory.states import optimizer_bytes, trainable_elements
from sim.mesh import Mesh
from sim.result.threads import thread_warnings
from sim.step.step import step
from sim.strategies import plan_of
from sim.strategies.pinned import pinned_bytes
from tests.unit.machines import dgx_h100
from tests.unit.test_fabric_graphs import explicit

P = 8_030_261_248


def topology(memory=2e12):
    gpu = Gpu(name="h100", memory=80e9)
    node = Node(gpu=gpu, gpus=8, pcie=Pcie(generation=5), cpu=Cpu(memory=memory))
    return Topology(name="t", node=node)


def workload(**keys):
    keys.setdefault("activation_checkpointing", Checkpointing(kind="full"))
    model = resolve_model("llama-3.1-8b")
    return Workload(name="w", model=model, sequence_length=2048, **keys)


def test_cpu_adam_of_the_published_table():
    """CPU-Adam steps a billion parameters in 0.22 to 0.30 s on a DGX-2's processors."""
    dgx2 = Cpu(sockets=2, memory_bandwidth=128e9, cores=48)
    measured = {1e9: 0.22, 2e9: 0.51, 4e9: 1.03, 8e9: 2.41, 10e9: 2.57}
    for elements, seconds in measured.items():
        ours = 28 * elements / host_rate(dgx2, 1)
        assert ours == pytest.approx(seconds, rel=0.2)
    assert host_rate(dgx2, 16) == pytest.approx(host_rate(dgx2, 1) / 16)
    assert host_rate(dgx2, 1, threads=1) < host_rate(dgx2, 1) / 5


def test_update_on_the_host_by_optimizer_and_stack():
    assert host_update_bytes(workload()) == 28
    assert host_update_bytes(workload(optimizer="sgd")) == 12
    pure = workload(precision=Precision(master="bf16"), optimizer="adamw-bf16")
    assert host_update_bytes(pure) == 14
    old = Stack(torch="2.3")
    assert update_slowdown(workload()) == 1
    assert update_slowdown(workload(stack=old)) > 5
    assert update_slowdown(workload(optimizer_implementation="foreach")) > 5
    assert update_slowdown(workload(stack=old, parallelism=Parallelism(strategy="zero3"))) == 1


@pytest.mark.parametrize(
    ("master", "strategy", "size"),
    [("fp32", "fsdp2", 4), ("bf16", "fsdp2", 2), ("bf16", "fsdp1", 2), ("bf16", "zero3", 4)],
)
def test_optimizer_traffic_follows_the_master_dtype(master, strategy, size):
    job = workload(precision=Precision(master=master), parallelism=Parallelism(strategy=strategy))
    shard = shard_of(job, 1e6, 10)
    assert (shard.parameter_bytes, shard.gradient_bytes) == (size, size)
    traffic = sum(k.bytes for k in optimizer_kernels(job, shard))
    assert traffic == (2 * size + size + 4 * size) * 1e6  # moments have the parameter's dtype


@pytest.mark.parametrize(
    ("optimizer", "per_element"),
    [("adamw", 28), ("adamw-bf16", 20), ("adamw-8bit", 12 + 4 * (1 + 4 / 256)), ("sgd", 12)],
)
def test_optimizer_traffic_by_kind(optimizer, per_element):
    job = workload(optimizer=optimizer)
    kernels = optimizer_kernels(job, shard_of(job, 1e6, 10))
    assert sum(k.bytes for k in kernels) == pytest.approx(per_element * 1e6)


@pytest.mark.parametrize(
    ("optimizer", "per_element"),
    [("adamw", 8), ("adamw-bf16", 4), ("adamw-8bit", 2.03125), ("sgd", 0)],
)
def test_states_are_the_same_on_the_gpu_and_in_a_checkpoint(optimizer, per_element):
    """One description: moments, scales of 8-bit ones in blocks of 256, a counter a tensor."""
    job = workload(optimizer=optimizer)
    counts = count_parameters(job.model, job.method)
    tensors = trainable_elements(job, 1)[1]
    states = per_element * counts.trainable + (0 if optimizer == "sgd" else 4 * tensors)
    assert optimizer_bytes(job, 1) == pytest.approx(states, rel=1e-12)
    assert checkpoint_bytes(job) == pytest.approx(4 * counts.total + states, rel=1e-12)


def test_adafactor_keeps_a_row_and_a_column_of_a_matrix():
    """And allocates two fp32 copies of its largest tensor: nobody fuses it."""
    kind = OPTIMIZERS["adafactor"]
    for how in ("fused", "foreach", "for-loop"):
        assert kind.state_bytes(how, 4, 300 * 400, 1, 300 + 400) == 4 * 700
        assert kind.scratch_bytes(how, 4, 1e9, 300 * 400) == 2 * 4 * 300 * 400


def test_adam_by_passes_allocates_a_moment():
    adamw, bf16 = OPTIMIZERS["adamw"], OPTIMIZERS["adamw-bf16"]
    assert adamw.scratch_bytes("foreach", 4, 1e6, 1e3) == 4e6
    assert adamw.scratch_bytes("foreach", 2, 1e6, 1e3) == 2e6
    assert bf16.scratch_bytes("foreach", 4, 1e6, 1e3) == 2e6
    assert adamw.scratch_bytes("for-loop", 4, 1e6, 1e3) == 12e3
    assert adamw.scratch_bytes("fused", 4, 1e6, 1e3) == 0


def test_moments_take_the_parameters_dtype():
    """AdamW on bf16 parameters keeps 4 B of moments; its counters are on the GPU only if fused."""
    for master, strategy, moments in (("fp32", "ddp", 8), ("bf16", "ddp", 4), ("bf16", "zero3", 8)):
        job = workload(
            precision=Precision(master=master), parallelism=Parallelism(strategy=strategy)
        )
        elements, tensors, *_ = trainable_elements(job, 1)
        assert optimizer_bytes(job, 1) == moments * elements + 4 * tensors
        foreach = job.model_copy(update={"optimizer_implementation": "foreach"})
        assert optimizer_bytes(foreach, 1) == moments * elements


def test_pinned_memory_comes_in_powers_of_two():
    assert [pinned_bytes(x) for x in (0.0, 1.0, 2.0, 3.0, 2.0**30, 2.0**30 + 1)] == [
        0.0, 1.0, 2.0, 4.0, 2.0**30, 2.0**31,
    ]  # fmt: skip


def test_what_zero3_keeps_on_the_host():
    """8.03e9 parameters on 8 ranks, 1.0e9 on each: what is pinned is rounded up.

    Optimizer: states 8, fp32 weights 4; gradients of a sub-group of 1e9 in fp32 (4.3 GB) and of the
    3.8e6 left over (16.8 MB), and all of them in bf16 (2 x 1.004e9 -> 2.1 GB). Parameters: 2.1 GB,
    and those of zero.Init one by one. A process 4 GB.
    """
    fp32, half = 2.0**32 + 2.0**24, 2.0**31
    for offload, terms in (
        ("optimizer", {"gradients": fp32, "gradients in the compute dtype": half}),
        ("parameters", {"parameters": half}),
        ("all", {"gradients": fp32, "parameters": half}),
    ):
        parallelism = Parallelism(strategy="zero3", offload=offload)
        found = memory(topology(), workload(parallelism=parallelism)).host_terms
        for name, size in {"process": 4e9, **terms}.items():
            assert found[name] == 8 * size
        if offload != "parameters":
            assert found["master weights"] == pytest.approx(4 * P, rel=1e-5)
            assert found["optimizer states"] == pytest.approx(8 * P, rel=1e-5)
        if offload != "optimizer":  # 2 B each, rounded up by a quarter on average
            assert found["parameters as loaded"] == pytest.approx(2.5 * P, rel=0.12)
    kept = memory(topology(), workload(parallelism=Parallelism(strategy="zero3")))
    only = Parallelism(strategy="zero3", offload="parameters")
    moved = memory(topology(), workload(parallelism=only))
    gone = kept.by_moment["optimizer"] - moved.by_moment["optimizer"]
    assert gone == pytest.approx(2 * P / 8, rel=1e-3)


def test_nvme_leaves_buffers_in_host_memory():
    parallelism = Parallelism(strategy="zero3", offload="all", offload_device="nvme")
    report = memory(topology(), workload(parallelism=parallelism))
    # four of a sub-group of 1e9 elements in fp32 and five of 1e8 in bf16, on eight ranks
    buffers = 8 * (4 * 4 * 1e9 + 5 * 2 * 1e8)
    assert report.host_terms == {"NVMe buffers": buffers, "process": 8 * 4e9}


@pytest.mark.parametrize(("strategy", "stages"), [("fsdp2", 1), ("megatron", 1), ("megatron", 4)])
def test_ranks_stage_their_own_part_of_a_checkpoint(strategy, stages):
    """fp32 weights and states; the fullest of four stages has the embedding and 8 of 32 layers."""
    knobs = Parallelism(strategy=strategy, pipeline_parallel=stages)
    save = CheckpointSave(asynchronous=True)
    whole = P if stages == 1 else stages * (128_256 * 4096 + 8 * 218_112_000)
    report = memory(topology(), workload(parallelism=knobs, checkpoint=save, micro_batch=1,
                                         gradient_accumulation=4))  # fmt: skip
    assert report.host_terms["checkpoint staging"] == pytest.approx(12 * whole, rel=1e-4)


def test_a_copy_on_every_rank_may_not_fit_the_host():
    """70B in fp32 is 282 GB; eight copies are more than the 2 TB of a DGX."""
    model = resolve_model("llama-3-70b")
    keys = {"parallelism": Parallelism(cpu_ram_efficient_loading=False)}
    job = workload(**keys).model_copy(update={"model": model})
    report = memory(topology(), job)
    assert report.host_loading_bytes == 8 * 4 * 70_553_706_496
    assert not memory(topology(memory=2e12), job).fits
    small = workload(**keys)
    assert memory(topology(), small).fits
    assert not memory(topology(memory=200e9), small).fits
    assert memory(topology(memory=200e9), workload()).fits


def test_offloaded_activations_are_in_host_memory():
    policy = Checkpointing(kind="full", offload=True)
    here = memory(topology(), workload(micro_batch=8))
    there = memory(topology(), workload(micro_batch=8, activation_checkpointing=policy))
    inputs = 32 * 8 * 2048 * 4096 * 2
    assert there.host_bytes == 8 * inputs
    assert here.host_bytes == 0
    saved = here.by_moment["backward"] - there.by_moment["backward"]
    assert saved == pytest.approx(inputs, rel=0.1)


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2", "zero3"])
def test_checkpointed_inputs_go_to_the_host_under_every_strategy(strategy):
    """32 inputs of 8 x 2,048 tokens; two stay on the GPU; a copy each way and layer."""
    p, rest = Parallelism(strategy=strategy), {"micro_batch": 8, "loss": "fused-linear"}
    method = Method(kind="lora", rank=8, targets=("q", "v"))
    here = workload(parallelism=p, method=method, **rest)
    there = here.model_copy(
        update={"activation_checkpointing": Checkpointing(kind="full", offload=True)}
    )
    one = 8 * 2048 * 4096 * 2
    assert memory(topology(), there).host_terms["activations"] == 8 * 32 * one
    kept = [memory(topology(), job).terms["saved activations"] / one for job in (here, there)]
    assert kept[0] - kept[1] == pytest.approx(30, abs=2)
    plan = plan_of(there, build_tree(there.model, there.method), mesh_on(there, 8))
    names = [op.name for op in plan.ops]
    assert (names.count("d2h"), names.count("h2d")) == (32, 32)


def test_an_update_on_the_host_is_of_its_own_optimizer_whoever_ran_before():
    """Plans are shared by jobs, but not with another optimizer's bytes: SGD moves 12 of 28."""
    offload = Parallelism(strategy="fsdp2", offload="all")
    found = {}
    for kind in ("adamw", "sgd", "adamw-8bit"):
        job = workload(optimizer=kind, parallelism=offload)
        tree = build_tree(job.model, job.method)
        plan = plan_of(job, tree, Mesh(dp_shard=8))
        (update,) = [op for op in plan.ops if op.name == "optimizer"]
        found[kind] = update.bytes / plan.owned_numel
        assert found[kind] == pytest.approx(host_update_bytes(job))
    assert found["adamw"] == 28
    assert found["sgd"] == 12


def offloaded(**keys):
    """Pure bf16 under FSDP2, all of it in host memory."""
    p = Parallelism(offload="all", clip_gradients=False, **keys.pop("knobs", {}))
    precision = Precision(master="bf16")
    return workload(parallelism=p, precision=precision, optimizer="adamw-bf16", **keys)


def test_torchtune_scales_gradients_where_they_are():
    """`scale_grads`: every bf16 gradient read and written once more, on the host if offloaded."""
    for trainer, passes in (("torchtune", 1), ("torchtitan", 0)):
        job = offloaded(trainer=trainer)
        plan = plan_of(job, build_tree(job.model, job.method), Mesh(dp_shard=8))
        found = [op.bytes for op in plan.ops if op.name == "scale" and op.stream == "host"]
        assert found == [pytest.approx(4 * plan.owned_numel)] * passes
    on_gpu = workload(trainer="torchtune")
    plan = plan_of(on_gpu, build_tree(on_gpu.model, on_gpu.method), Mesh(dp_shard=8))
    assert [op.stream for op in plan.ops if op.name == "scale"] == ["compute"]


def test_pure_bf16_is_torchtunes():
    assert trainer_of(offloaded()).name == "torchtune"
    assert trainer_of(workload()).name == "torchtitan"


def test_pageable_copies_hold_the_host_up():
    """The CPU waits for the copy of every unit, in and out, and the step is longer."""
    plans, times = {}, {}
    for pinned in (True, False):
        job = offloaded(knobs={"pin_memory": pinned})
        plans[pinned] = plan_of(job, build_tree(job.model, job.method), Mesh(dp_shard=8))
        times[pinned] = step(topology(), job).time_s
    waits = {k: sum(op.host_after >= 0 for op in plan.ops) for k, plan in plans.items()}
    copies = sum(op.name == "h2d" for op in plans[True].ops)
    assert waits[False] >= waits[True] + copies
    assert times[False] > times[True]


@pytest.mark.parametrize(
    ("strategy", "kind"), [("zero2", "optimizer"), ("zero3", "optimizer"), ("zero3", "all")]
)
def test_what_the_host_casts_and_stages_under_zero(strategy, kind):
    """bf16 from the fp32 masters, 6 B an element; 3 x 2 B where a new pageable tensor is sent."""
    job = workload(parallelism=Parallelism(strategy=strategy, offload=kind))
    plan = plan_of(job, build_tree(job.model, job.method), Mesh(dp_shard=8))
    cast, staged = (sum(op.bytes for op in plan.ops if op.name == n) for n in ("cast", "stage"))
    sends = strategy == "zero3" and kind == "optimizer"
    assert cast == pytest.approx(6 * plan.owned_numel)
    assert staged == pytest.approx(6 * plan.owned_numel * sends)


def test_gradients_that_the_host_casts_before_deepspeed_0_15():
    """As much again for gradients, and a wait for each bucket; from 0.15 on fp32 leaves the GPU."""
    found, sent, times = {}, {}, {}
    for release in ("0.14.4", "0.19.8"):
        p = Parallelism(strategy="zero3", offload="optimizer", deepspeed_version=release)
        job = workload(parallelism=p)
        plan = plan_of(job, build_tree(job.model, job.method), Mesh(dp_shard=8))
        found[release] = sum(op.bytes for op in plan.ops if op.name == "cast")
        sent[release] = sum(op.bytes for op in plan.ops if op.name == "d2h")
        times[release] = step(topology(), job).time_s
    assert found["0.14.4"] == pytest.approx(2 * found["0.19.8"])
    assert sent["0.14.4"] < sent["0.19.8"]
    assert times["0.14.4"] > times["0.19.8"]


@pytest.mark.parametrize(
    ("strategy", "kind"), [("zero2", "optimizer"), ("zero3", "optimizer"), ("zero3", "parameters")]
)
def test_pageable_memory_under_zero(strategy, kind):
    """Every copy is moved by a thread on the host too; sizes are not rounded up."""
    times, sizes = {}, {}
    for pinned in (True, False):
        p = Parallelism(strategy=strategy, offload=kind, pin_memory=pinned)
        job = workload(parallelism=p)
        times[pinned] = step(topology(), job).time_s
        sizes[pinned] = memory(topology(), job).host_bytes
    assert times[False] > times[True]
    assert sizes[False] < sizes[True]


def test_fused_adamw_takes_a_core_its_time():
    """8.8e9 elements: 14 B each at 12 GB/s and 2 ns on one thread; a 16th of the 2 ns on 16."""
    rome = Cpu(sockets=2, memory_bandwidth=204.8e9, cores=128)
    n, one = 8.8e9, offloaded(stack=Stack(torch="2.6", omp_num_threads=1))
    assert update_s(one, rome, 8, 14 * n, n) == pytest.approx(n * (14 / 12e9 + 2e-9))
    share = 0.425 * 2 * 204.8e9 / 8
    every = offloaded(stack=Stack(torch="2.6"))
    assert update_s(every, rome, 8, 14 * n, n) == pytest.approx(n * (14 / share + 2e-9 / 16))
    ours = workload(stack=Stack(torch="2.6"), parallelism=Parallelism(strategy="zero3"))
    assert update_s(ours, rome, 8, 28 * n, n) == pytest.approx(28 * n / share)


def one_thread(*sets):
    found = simulate("dgx-h100", "llama3-8b-offload", overrides=sets, scaling=False, fixes=False)
    return found.step.time_s, [w.message for w in found.warnings if w.code == "one-thread"]


def test_launchers_threads_are_said_with_the_step_that_they_make():
    """torchrun and accelerate set OMP_NUM_THREADS=1: the step as if it were written."""
    usual, [said] = one_thread()
    slow, silent = one_thread("stack.omp_num_threads=1")
    assert slow > 1.5 * usual
    assert not silent
    assert f"would take {slow:.2f} s, not {usual:.2f} s as on 14 cores" in said


def test_launchers_threads_are_said_of_a_machine_written_as_a_graph():
    """Its hosts are a node's defaults, whose cores a rank are said."""
    job = load("dgx-h100", "llama3-8b-offload", ["model.layers=2"]).workload
    (said,) = thread_warnings(explicit(dgx_h100(1)), job, 1e-3)
    assert f" as on {threads_of(Cpu(), 8)} cores a rank" in said.message


@pytest.mark.parametrize(
    "sets",
    [["stack.omp_num_threads=14"], ["parallelism.offload=none"], ["parallelism=zero3"],
     ["parallelism={strategy: zero3, offload: all}"], ["node.cpu.cores_per_rank=1"]],
)  # fmt: skip
def test_no_launchers_threads_elsewhere(sets):
    assert not one_thread(*sets)[1]
