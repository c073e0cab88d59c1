"""The host lane: CPU times by name, cores and speed, trainers and their waits."""

import pytest

from sim.blocks.kernels import Kernel
from sim.blocks.parameters import build_tree
from sim.cost.host import HostModel, agreement_s, host_model, known_calls, pace_of
from sim.data import recording, table
from sim.errors import InputError
from sim.inputs.checks import check
from sim.inputs.loader import load
from sim.inputs.shares import mesh_of
from sim.inputs.topology import Cpu
from sim.inputs.trainer import trainer_named, trainer_of
from sim.lowering.parts import CATEGORIES
from sim.memory.report import memory
from sim.result.advice import changes
from sim.step.run import run_step
from sim.step.step import step
from sim.strategies import build_plan
from sim.strategies.plan import COLLECTIVE, HOST
from sim.strategies.recorder import Recorder

BOX = {
    "name": "box",
    "node": {
        "gpu": "a100-sxm-80gb", "gpus": 4, "pcie": {"generation": 4},
        "nvlink": {"generation": 3, "links_per_gpu": 12},
    },
}  # fmt: skip
JOB = {
    "name": "j", "model": "llama-3.2-1b", "sequence_length": 512, "steps": 10,
    "activation_checkpointing": "full", "parallelism": "fsdp1",
}  # fmt: skip


def box(**cpu):
    return {**BOX, "node": {**BOX["node"], "cpu": cpu}}


def plan_for(**more):
    found = load(BOX, JOB | more, [])
    w = found.workload
    return build_plan(w, build_tree(w.model, w.method), mesh_of(found.topology, w))


@pytest.mark.parametrize(
    ("cpu", "ranks", "pace"),
    [
        ({"cores": 96}, 8, 1.0),  # 12 cores a rank
        ({"cores": 96, "speed": 0.5}, 8, 2.0),
        ({"cores": 96, "cores_per_rank": 1}, 8, 2.0),  # one core for two cores' work
        ({"cores": 8, "speed": 2.0}, 16, 2.0),  # half a core: 4 times as long, twice as fast
    ],
)
def test_pace(cpu, ranks, pace):
    assert pace_of(Cpu(**cpu), ranks) == pytest.approx(pace)
    assert pace_of(Cpu(**cpu), ranks, launch=3.0) == pytest.approx(3 * pace)


def test_every_cpu_time_scales_with_the_pace():
    kernel = Kernel("w", "w", "gemm")
    plain, slow = host_model("eager"), host_model("eager", 3.0)
    assert slow.launch_s(kernel) == pytest.approx(3 * plain.launch_s(kernel), rel=1e-12)
    assert slow.calls == pytest.approx({k: 3 * v for k, v in known_calls().items()})


def test_calls_of_plans_are_known():
    known = set(known_calls()) | set(trainer_named("huggingface").calls_s(1))
    lora = {"lora": {"rank": 4, "targets": "qv"}}
    jobs = (
        {}, {"method": lora, "parallelism": {"strategy": "fsdp1", "wrap": "peft"}},
        {"parallelism": "fsdp2"}, {"parallelism": "ddp"}, {"parallelism": "zero2"},
        {"parallelism": "zero3", "trainer": "huggingface"},
    )  # fmt: skip
    for job in jobs:
        assert {name for op in plan_for(**job).ops for name, _ in op.calls} <= known


def test_calls_go_before_the_next_op_and_before_a_wait():
    r = Recorder({})
    r.kernel("compute", "a", "forward", 1.0)
    r.call("x.before")
    r.host_sync(r.record("compute"))
    r.call("x.after", "x.after")
    r.call_times("x.many", 5)
    r.kernel("compute", "b", "forward", 1.0)
    first, waiting, last = r.ops
    assert (first.calls, waiting.kind) == ((), HOST)
    assert waiting.calls == (("x.before", 1.0),)
    assert last.calls == (("x.after", 1.0), ("x.after", 1.0), ("x.many", 5))
    assert last.host_after == 0


def test_the_trainer_of_adapters_is_torchtunes_where_the_loss_comes_in_chunks():
    lora = {"lora": {"rank": 8, "targets": "all-linear"}}
    named = {
        loss: trainer_of(load(BOX, JOB | {"method": lora, "loss": loss}, []).workload).name
        for loss in ("eager", "chunked")
    }
    assert named == {"eager": "huggingface", "chunked": "torchtune"}


def test_a_units_hooks():
    """Root and 16 layers: each gathered in forward and again in backward, the root once."""
    plan = plan_for(trainer="none")
    count = {}
    for op in plan.ops:
        for name, times in op.calls:
            count[name] = count.get(name, 0) + times
    assert count["fsdp1.pre_forward"] == count["fsdp1.post_forward"] == 17
    assert count["fsdp1.pre_backward"] == count["fsdp1.reduce"] == 17
    gathers = sum(op.kind == COLLECTIVE and op.collective == "all_gather" for op in plan.ops)
    assert count["fsdp1.unshard"] == gathers + 1  # the root is there, but it looks
    assert not [name for name in count if name.startswith("trainer")]


def test_a_slow_cpu_is_exposed_only_where_the_gpu_waits():
    def seconds(length, speed):
        loaded = load(box(speed=speed), JOB | {"sequence_length": length}, [])
        return step(loaded.topology, loaded.workload).breakdown

    short, long = ({v: seconds(n, v) for v in (1.0, 0.25)} for n in (128, 8192))
    assert short[0.25].time_s > 2.5 * short[1.0].time_s
    own = {speed: each.time_s - each.waiting_s for speed, each in long.items()}
    assert own[0.25] < 1.05 * own[1.0]  # the rest is the latest of eight hosts


def test_time_never_falls_as_the_cpu_slows():
    times = []
    for speed in (2.0, 1.0, 0.7, 0.5, 0.3):
        loaded = load(box(speed=speed), JOB, [])
        times.append(step(loaded.topology, loaded.workload).time_s)
    assert times == sorted(times)


def test_trainers():
    def seconds(**more):
        fsdp = {"strategy": "fsdp1", "gradient_sync": "every", "reduce_dtype": "bf16"}
        alike = {"parallelism": fsdp}
        loaded = load(BOX, JOB | alike | {"gradient_accumulation": 4} | more, [])
        return step(loaded.topology, loaded.workload).time_s

    assert seconds(trainer="huggingface") > seconds(trainer="accelerate") > seconds(trainer="none")


@pytest.mark.parametrize(
    ("job", "trainer"),
    [
        ({"parallelism": "fsdp2"}, "torchtitan"),
        ({"parallelism": "fsdp1"}, "accelerate"),
        ({"parallelism": "zero2"}, "deepspeed"),
        ({"parallelism": "ddp", "method": "lora"}, "huggingface"),
        ({"parallelism": "zero3", "method": "lora"}, "huggingface"),
        ({"parallelism": "zero3", "trainer": "none"}, "none"),
    ],
)
def test_the_trainer_follows_from_the_strategy_and_is_said(job, trainer):
    loaded = load(BOX, JOB | job, [])
    assert trainer_of(loaded.workload).name == trainer
    said = f"workload.trainer = {trainer}" in loaded.notes.assumptions()
    assert said is ("trainer" not in job)


def test_trainers_of_the_data_are_those_of_the_key():
    for name in table("trainers"):
        loaded = load(BOX, JOB | {"trainer": name}, [])
        assert trainer_of(loaded.workload).title


@pytest.mark.parametrize(
    ("cpu", "job", "says"),
    [
        ({}, {"trainer": "hugginface"}, 'did you mean "huggingface"?'),
        ({"speed": 0}, {}, "0 is not at least 0.001"),
        ({"speed": 1000}, {}, "1000 is more than any machine has (20)"),
        ({"cores": 16, "cores_per_rank": 8}, {}, "4 ranks of 8 cores on 16 cores"),
        ({"cores_per_rank": 0}, {}, "0 is not at least 1"),
    ],
)
def test_faults(cpu, job, says):
    with pytest.raises(InputError) as caught:
        load(box(**cpu), JOB | job, [])
    assert says in str(caught.value)


LORA = {"lora": {"rank": 4, "targets": "qv"}}
WRAPPED = {
    ("fsdp1", "blocks"): ("full", {"gradient_sync": "last", "checkpoint_wrapper": "outside"}),
    ("fsdp1", "peft"): (
        LORA, {"gradient_sync": "last", "wrap": "peft", "checkpoint_wrapper": "outside"}
    ),
    ("fsdp2", "blocks"): ("full", {"gradient_sync": "last"}),
}  # fmt: skip


def recorded(wrapper, policy, where):
    """What a wrapper adds to a layer, sim/data/host/wrappers.json."""
    return next(
        row["layer"] for row in recording("wrappers")["rows"]
        if row["wrapper"] == wrapper and row["policy"] == policy and row["no_sync"]
        and row["checkpointing"] == "nonreentrant" and not row["mixed_precision"]
        and row["adapter_dtype"] in ("", "fp32") and row["micro_step"] == where
    )  # fmt: skip


@pytest.mark.parametrize(("wrapper", "policy"), WRAPPED)
@pytest.mark.parametrize(("micro", "where"), [(0, "accumulating"), (1, "last")])
def test_counts_of_a_layers_hooks_are_those_recorded(wrapper, policy, micro, where):
    """Python calls and operators that a wrapper adds to a Llama layer, all phases of one."""
    method, knobs = WRAPPED[wrapper, policy]
    counts = {}
    for layers in (24, 25):
        plan = plan_for(
            model={"base": "llama-3.2-1b", "layers": layers}, method=method, trainer="none",
            parallelism={"strategy": wrapper, **knobs}, gradient_accumulation=2,
        )  # fmt: skip
        found = counts[layers] = {"python": 0.0, "operators": 0.0}
        made_of = table("constants/host")["calls"][wrapper]
        for op in plan.ops:
            for name, times in op.calls if op.micro_step == micro else ():
                group, _, call = name.partition(".")
                for what in found if group == wrapper else ():
                    found[what] += times * made_of[call].get(what, 0.0)
    seen = recorded(wrapper, policy, where)
    phases = [seen[p] for p in ("forward", "recompute", "backward") if p in seen]
    ours = {k: counts[25][k] - counts[24][k] for k in counts[25]}
    assert ours["python"] == pytest.approx(sum(p["python_calls"] for p in phases), rel=0.07)
    # of sums of gradients that the bare model has and the flat parameter has not, no hook is rid
    spared = sum(min(0, p["names"].get("add_", 0)) for p in phases)
    operators = sum(p["operators"] for p in phases) - spared
    assert ours["operators"] == pytest.approx(operators, rel=0.15)


def test_a_trainer_that_wraps_adapters_apart_is_told():
    def codes(**more):
        return [w.code for w in load(BOX, JOB | {"method": LORA} | more, []).notes.warnings]

    assert "peft-wrap" in codes(parallelism="fsdp1")
    assert "peft-wrap" not in codes(parallelism={"strategy": "fsdp1", "wrap": "peft"})
    assert "peft-wrap" not in codes(parallelism="fsdp1", trainer="none")
    assert "peft-wrap" not in codes(parallelism="fsdp2", trainer="huggingface")


def test_adapters_in_a_flat_parameter_are_refused_at_their_key_and_not_advised():
    flat = {"strategy": "fsdp1", "wrap": "block+root", "use_orig_params": False}
    with pytest.raises(InputError) as caught:
        load(BOX, JOB | {"method": LORA, "parallelism": flat}, [])
    (fault,) = caught.value.faults
    assert fault.path == "parallelism.use_orig_params"
    # a trainer of one's own: Hugging Face's wraps adapters apart whatever is asked
    apart = JOB | {"method": LORA, "parallelism": flat | {"wrap": "peft"}, "trainer": "none"}
    loaded = load(BOX, apart, [])
    (change,) = [
        c for c in changes(loaded.topology, loaded.workload, "faster")
        if "parallelism.wrap" in c.settings
    ]  # fmt: skip
    assert change.settings["parallelism.use_orig_params"] is True
    assert memory(change.topology, change.workload).peak_allocated_bytes > 0.0


def test_ranks_agree_on_collectives_first():
    """Four messages a rank over TCP, of each group's own size; none of a rank alone."""
    assert agreement_s(8, 1) == pytest.approx(8 * 4 * 49e-6)
    assert agreement_s(16, 2) == pytest.approx(16 * 4 * 66e-6)
    assert agreement_s(1, 1) == 0.0
    shared = [
        "sequence_length=512", "micro_batch=1", "global_batch=1", "parallelism.tensor_parallel=8"
    ]  # fmt: skip
    plain = load("dgx-h100", "llama3-8b-sft", shared)
    checked = load("dgx-h100", "llama3-8b-sft", [*shared, "stack.distributed_debug=detail"])
    found = step(plain.topology, plain.workload), step(checked.topology, checked.workload)
    count = sum(kind["count"] for kind in found[1].breakdown.collectives.values())
    late = found[1].time_s - found[0].time_s
    assert late == pytest.approx(count * agreement_s(8, 1), rel=1e-3)
    offered = [c.settings for c in changes(checked.topology, checked.workload, "faster")]
    assert {"stack.distributed_debug": "off"} in offered


def test_messages_between_stages_take_the_cpu_their_time():
    """1F1B of 2 stages, 8 micro-batches: a rank sends or awaits 16 messages, in turn."""
    two = [
        "parallelism.strategy=fsdp2", "parallelism.pipeline_parallel=2", "micro_batch=1",
        "gradient_accumulation=8", "sequence_length=512",
    ]  # fmt: skip
    plain = load("dgx-h100", "llama3-8b-sft", two)
    slow = load("dgx-h100", "llama3-8b-sft", [*two, "stack.message_time=0.3 s"])
    assert slow.workload.stack.message_time == 0.3
    late = step(slow.topology, slow.workload).time_s - step(plain.topology, plain.workload).time_s
    assert late == pytest.approx(16 * 0.3, rel=0.1)
    alone = load("dgx-h100", "llama3-8b-sft", ["stack.message_time=0.3 s"])
    (said,) = [f for f in check(alone.topology, alone.workload) if "message_time" in f.path]
    assert said.message == "no stages send each other messages"


def test_one_gpu_agrees_with_nobody():
    found = load("h100-x1", "llama3-8b-lora", ["stack.distributed_debug=detail"])
    (said,) = [f for f in check(found.topology, found.workload) if "debug" in f.path]
    assert said.message == "one GPU has no collectives to agree on"


def test_the_optimizer_and_kernels_of_no_module_take_the_optimizers_time():
    host = HostModel(3e-6, 5e-6, 7e-6, {})
    kernel = Kernel("x", "wq", "gemm", 0.0, 0.0, direction="forward", launches=2)
    assert host.launch_s(kernel) == 6e-6
    assert host.launch_s(kernel._replace(direction="dgrad")) == 10e-6
    assert host.launch_s(kernel._replace(kind="optimizer")) == 14e-6
    assert host.launch_s(kernel._replace(kind="attention")) == 6e-6
    assert host.launch_s(kernel._replace(module="")) == 14e-6


def test_a_rank_steps_the_tensors_that_its_part_of_a_flat_parameter_has():
    """Llama 1B: 9 tensors a layer, 2 in the root (embeddings are tied); on 4 ranks (t + 3)/4."""
    full = plan_for(trainer="none")
    assert full.owned_tensors == round(16 * 12 / 4 + 5 / 4) == 49
    lora = plan_for(method=LORA, parallelism={"strategy": "fsdp1", "wrap": "peft"})
    assert lora.owned_tensors == 64  # units of one tensor: four a layer, all ranks have a part
    whole = {"strategy": "fsdp1", "use_orig_params": False}
    assert plan_for(parallelism=whole).owned_tensors == 17  # flat parameters themselves
    (clip,) = (t for op in full.ops for name, t in op.calls if name == "fsdp1.clip")
    assert clip == 49


def test_gradients_that_pile_up_are_viewed_anew_in_each_backward_and_later_forward():
    last = {"strategy": "fsdp1", "gradient_sync": "last"}
    plan = plan_for(parallelism=last, gradient_accumulation=3, trainer="none")
    units = sum(t for op in plan.ops for name, t in op.calls if name == "fsdp1.grad_views")
    assert units == 17 * (1 + 2 + 1)  # backward; forward and backward; forward


def test_flat_gradients_of_two_bytes_are_copied_one_by_one():
    """Llama 8B's layer: 436 MB read and written, 0.39 and 0.8 of an A100's 2.039 TB/s."""
    found = {}
    for kind in ("bf16", "fp32"):
        job = JOB | {"model": "llama3-8b", "precision": kind, "trainer": "none"}
        loaded = load(BOX, job, [])
        ran = run_step(loaded.topology, loaded.workload)
        plan = ran.lowered.views[0].plan
        one = next(
            i for i, at in enumerate(ran.lowered.plan_op.tolist())
            if plan.ops[at].name in ("cat", "flatten") and plan.ops[at].block == 7
            and CATEGORIES[ran.lowered.category[i]] == "copy"
        )  # fmt: skip
        found[kind] = ran.lowered.alone_s[one]
    assert found["bf16"] == pytest.approx(2 * 436.2e6 / (0.39 * 2.039e12), rel=0.02)
    assert found["fp32"] == pytest.approx(2 * 872.4e6 / (0.8 * 2.039e12), rel=0.02)
