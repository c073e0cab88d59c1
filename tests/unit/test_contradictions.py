"""Keys that exclude one another, and keys that do nothing beside others: said, never silent."""

import json

import pytest

from bench.advised import against, tried
from bench.silent.keys import TRAINED, of_machines, outcome, values
from bench.silent.terms import KEYS, OF_JOBS
from sim import plan, posttrain, prices_list, simulate
from sim.errors import InputError
from sim.inputs.loader import load
from sim.result.idle import WAYS

SCATTERED = "network.placement=random"
FSDP1 = "parallelism={strategy: fsdp1, offload: all}"


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (["attention=flash2", "precision=fp32"], "flash2 has no FP32"),
        (["attention=cudnn", "precision=fp32", "stack.torch=2.6"], "cudnn has no FP32"),
        (["method={lora: {rank: 5000}}"], "more than the hidden size 4096"),
        (["node.nvlink.links_per_gpu=19"], "h100-sxm-80gb has 18"),
        (["network.kind=single-switch", "network.oversubscription=2"], "no uplinks"),
        (["parallelism={strategy: ddp, forward_prefetch: 2}"], "ddp has no such knob"),
        (["parallelism={strategy: zero3, reduce_dtype: null}"], "zero3 has no such knob"),
        (["parallelism={strategy: zero3, gradient_sync: last}"], "zero3 has no such knob"),
    ],
)
def test_contradictions_are_refused(sets, says):
    with pytest.raises(InputError, match=says):
        load("dgx-h100", "llama3-8b-sft", sets)


@pytest.mark.parametrize(
    "sets",
    [
        [FSDP1, "gradient_accumulation=1"],
        ["parallelism={strategy: fsdp1, offload: all, gradient_sync: last}"],
        ["parallelism={strategy: zero3, offload: all, gradient_sync: every}"],  # as it does anyway
    ],
)
def test_what_is_no_contradiction_is_not_refused(sets):
    assert load("dgx-h100", "llama3-8b-sft", sets).workload.parallelism.offload == "all"


def test_gradients_that_fsdp1_loses_are_said():
    for trainer, accumulated, said in (
        ("none", 4, True), ("none", 1, False), ("huggingface", 4, False),
    ):  # fmt: skip
        sets = [FSDP1, f"gradient_accumulation={accumulated}", f"trainer={trainer}"]
        found = load("dgx-h100", "llama3-8b-sft", sets).notes.warnings
        assert any(w.code == "offload-sync" for w in found) is said


def test_attention_of_fp32_where_none_is_written():
    job = {"name": "j", "model": "gpt2", "sequence_length": 128, "steps": 1, "precision": "fp32"}
    found = load("dgx-h100", job)
    assert found.workload.attention == "sdpa"
    assert ("workload.attention", "sdpa") in found.notes.assumed


def idle(machine, *sets, job="llama3-8b-sft"):
    found = simulate(machine, job, overrides=sets, scaling=False, fixes=False)
    return [w.path.removeprefix("topology.") for w in found.warnings if w.code == "idle-key"]


@pytest.mark.parametrize(
    ("machine", "sets", "expected"),
    [
        ("dgx-h100", ["network.oversubscription=2"], ["network.oversubscription"]),  # one node
        ("dgx-h100", ["nodes=64", SCATTERED, "network.oversubscription=4"], []),
        ("dgx-h100", ["node.pcie.p2p=false"], ["node.pcie.p2p"]),
        ("dgx-h100", ["network.sharp=true"], ["network.sharp"]),
        ("pcie4-a100-8", ["node.pcie.p2p=false"], []),
        ("dgx-h100", ["node.p2p_level=LOC"], []),
        ("dgx-h100", ["node.p2p_level=PIX"], ["node.p2p_level"]),
        ("dgx-h100", ["nodes=2", "node.nics.gpudirect=false"], []),
        ("dgx-h100", ["nodes=1"], []),
    ],
)  # fmt: skip
def test_ways_that_nothing_takes_are_said(machine, sets, expected):
    assert idle(machine, *sets) == expected


def test_where_gpus_meet_is_said_when_peer_to_peer_changes_nothing():
    root_ports = ["node.gpus=3", "node.pcie.gpus_per_switch=0", "node.cpu.vendor=intel"]
    for machine, sets, place in (
        ("dgx-h100", [], "over NVLink"), ("pcie4-a100-8", root_ports, "in host memory"),
    ):  # fmt: skip
        sets = [*sets, "node.pcie.p2p=false"]
        found = simulate(machine, "llama3-8b-lora", overrides=sets, scaling=False, fixes=False)
        (said,) = (w for w in found.warnings if w.path == "topology.node.pcie.p2p")
        assert said.message.startswith("node.pcie.p2p changes nothing")
        assert said.message.endswith(f"its GPUs meet {place}")


def test_what_the_file_says_of_its_machine_is_no_wish():
    assert idle("l40s-8", job="mistral-7b-lora") == []
    assert len(set(WAYS)) == len(WAYS)


@pytest.mark.parametrize(
    ("sets", "key", "why"),
    [
        (["parallelism.sequence_parallel=false"], "sequence_parallel", "tensor_parallel is 1"),
        (["parallelism.pipeline_schedule=gpipe"], "pipeline_schedule", "pipeline_parallel is 1"),
        (["parallelism.pipeline_layers=[17, 15]"], "pipeline_layers", "pipeline_parallel is 1"),
        (["parallelism.context_parallel_kind=ulysses"], "context_parallel_kind",
         "context_parallel is 1"),
        (["parallelism={strategy: zero3, z3_leaf_experts: true}"], "z3_leaf_experts",
         "its model has no experts"),
        (["parallelism={strategy: zero1, clip_gradients: false}"], "clip_gradients",
         "step, memory and job are as"),
        (["parallelism.checkpoint_wrapper=outside"], "checkpoint_wrapper", "as with its default"),
        (["parallelism={context_parallel: 2, context_parallel_kind: ulysses}", "attention=sdpa",
          "parallelism.context_parallel_rotation=all-to-all"], "context_parallel_rotation",
         "as with its default"),
    ],
)  # fmt: skip
def test_knobs_that_nothing_takes_are_said(sets, key, why):
    found = simulate("dgx-h100", "llama3-8b-sft", overrides=sets, scaling=False, fixes=False)
    (said,) = (w for w in found.warnings if w.code == "idle-key")
    assert said.path == f"workload.parallelism.{key}"
    assert said.message.startswith(f"parallelism.{key} changes nothing in this job: ")
    assert why in said.message


@pytest.mark.parametrize(
    "sets",
    [
        ["parallelism.sequence_parallel=true"],  # the default
        ["parallelism={strategy: megatron, tensor_parallel: 2, sequence_parallel: false}"],
        ["parallelism.reshard_after_forward=false"],
        ["parallelism={strategy: ddp, bucket_cap_mb: 200}"],
        ["parallelism.cpu_ram_efficient_loading=false", "parallelism.offload=all"],
    ],
)
def test_knobs_that_something_takes_are_not(sets):
    found = simulate("dgx-h100", "llama3-8b-sft", overrides=sets, scaling=False, fixes=False)
    assert [w for w in found.warnings if w.code == "idle-key"] == []


TWO_USD = "offer={price_per_gpu_hour: 2 USD}"
SPOT = "offer={price_per_gpu_hour: 2 USD, spot_price_per_gpu_hour: 1 USD, capacity: spot}"


@pytest.mark.parametrize(
    ("sets", "path"),
    [
        (["stack.cuda=12.1"], "workload.stack.cuda"),
        (["data.mean_length=300"], "workload.data.mean_length"),
        (["data.prefetch=4"], "workload.data.prefetch"),
        (["data.sequence_lengths={mean: 300, maximum: 4000}"], "workload.data.sequence_lengths"),
        (
            [
                "method=full",
                "parallelism={strategy: fsdp2, pipeline_parallel: 2}",
                "parallelism.pin_memory=false",
            ],
            "workload.parallelism.pin_memory",
        ),
        (["checkpoint.offload_to_cpu=false"], "workload.checkpoint.offload_to_cpu"),
        (["network.nodes_per_leaf=2"], "topology.network.nodes_per_leaf"),
        (
            [TWO_USD, "offer.spot_price_per_gpu_hour=1 USD"],
            "topology.offer.spot_price_per_gpu_hour",
        ),
        ([TWO_USD, "offer.preemption_notice=100 s"], "topology.offer.preemption_notice"),
        ([SPOT, "offer.commitment_discount=0.3"], "topology.offer.commitment_discount"),
    ],
)
def test_keys_of_job_and_machine_that_nothing_takes_are_said(sets, path):
    found = simulate("dgx-h100", "llama3-8b-lora", overrides=sets, scaling=False, fixes=False)
    (said,) = (w for w in found.warnings if w.code == "idle-key")
    assert said.path == path
    assert said.message.endswith("step, memory and job are as with its default")


@pytest.mark.parametrize(
    "sets",
    [
        ["data={packing: false, mean_length: 300}"], ["checkpoint.interval=60 s"],
        ["data.workers=0"],
        [TWO_USD, "offer.pue=1.5"], [SPOT, "offer.preemption_mtbf=1 h"],
        ["reliability={spare_nodes: 1, gpu_mtbf: 1 h}", "reliability.warm_restart=10 s"],
    ],
)  # fmt: skip
def test_keys_of_job_and_machine_that_something_takes_are_not(sets):
    found = simulate("dgx-h100", "llama3-8b-sft", overrides=sets, scaling=False, fixes=False)
    assert [w.path for w in found.warnings if w.code == "idle-key"] == []


def test_what_comes_with_an_offer_is_no_wish():
    found = simulate("aws-p5", "llama3-8b-sft", offer="aws", scaling=False, fixes=False)
    assert found.cost.provider == "aws"
    assert [w.path for w in found.warnings if w.code == "idle-key"] == []


@pytest.mark.parametrize(
    ("sets", "code", "says"),
    [
        (["evaluation.tokens=1e6"], "no-evaluation", "1,000,000 tokens, and none is made"),
        (["evaluation.every=10"], "no-evaluation", "every 10 steps of no tokens"),
        (["trainer=nanotron"], "trainer-strategy",
         "nanotron runs megatron, zero1 or ddp, not fsdp2"),
        (["parallelism=fsdp1", "trainer=torchtitan"], "trainer-strategy",
         "torchtitan runs fsdp2 or ddp, not fsdp1"),
        (["modelling=megatron"], "trainer-modelling",
         "layers of Megatron-LM run in Megatron-LM alone; the loop is that of torchtitan"),
        (["modelling=nanotron", "trainer=megatron"], "trainer-modelling", "of Megatron-LM"),
        (["offer={price_per_gpu_hour: 2 USD, spot_price_per_gpu_hour: 3 USD}"], "dear-spot",
         "$3.00 an hour, and $2.00 on demand"),
        (["offer={price_per_gpu_hour: 2 USD, capacity: spot}"], "no-spot-price", "on demand"),
        ([TWO_USD, "offer.own={price_per_gpu: 30000 USD}"], "own-and-rented", "is what is paid"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_warned_of(sets, code, says):
    found = load("dgx-h100", "llama3-8b-lora", sets).notes.warnings
    (said,) = (w for w in found if w.code == code)
    assert says in said.message


@pytest.mark.parametrize(
    "sets",
    [
        ["evaluation={every: 10, tokens: 1e6}"], ["trainer=torchtitan"], ["trainer=none"], [SPOT],
        ["trainer=megatron"], ["trainer=none", "modelling=megatron"], ["modelling=composer"],
        ["trainer=megatron", "modelling=megatron"],
        ["offer={price_per_gpu_hour: 2 USD, spot_price_per_gpu_hour: 2 USD}"],
        ["offer={own: {price_per_gpu: 30000 USD}}"],
    ],
)  # fmt: skip
def test_what_agrees_is_not(sets):
    codes = {
        "no-evaluation", "trainer-strategy", "trainer-modelling", "no-spot-price", "dear-spot",
        "own-and-rented",
    }  # fmt: skip
    found = load("dgx-h100", "llama3-8b-lora", sets).notes.warnings
    assert not codes & {w.code for w in found}


def test_no_key_is_silent():
    """Of what `bench.silent` asks: one strategy of the eight, every fifth of its values."""
    found = [
        (key, value, outcome("h100-x1", ("parallelism=single",), (f"{key}={json.dumps(value)}",)))
        for key, value in list(values())[::5]
    ]
    assert [one for one in found if one[2] == "silent"] == []
    assert {how for *_, how in found} >= {"moved", "warned", "refused"}


@pytest.mark.parametrize("way", ["pipeline", "freeze", "disk"])
def test_nor_beside_other_axes_methods_and_offload(way):
    """No key of a pipeline was tried: 33 of its 235 were silent."""
    ends = [
        (key, value, outcome("dgx-h100", TRAINED[way], (f"{key}={json.dumps(value)}",)))
        for key, value in list(values())[::19]
    ]
    assert [one for one in ends if one[2] == "silent"] == []
    assert {how for *_, how in ends} >= {"moved", "refused"}


@pytest.mark.parametrize(
    ("terms", "before"),
    [
        ("owned", ["offer.residency", "phases"]),
        ("without a length", ["reliability.domains", "deadline", "phases"]),
    ],
)
def test_nor_of_offers_failures_calibrations_and_phases(terms, before):
    """Beside every third of `bench.silent terms` those that were silent."""
    ends = {
        key: outcome("dgx-h100", OF_JOBS[terms], (f"{key}={json.dumps(KEYS[key])}",))
        for key in [*list(KEYS)[::3], *before]
    }
    assert [key for key, how in ends.items() if how == "silent"] == []
    assert {ends[key] for key in before} == {"warned"}
    assert set(ends.values()) >= {"moved", "warned"}


def test_a_release_that_would_follow_is_idle():
    """DeepSpeed's beside a written PyTorch was held against today's, not that of its time."""
    job = ["parallelism=zero3", "stack.torch=2.1", "stack.cuda=12.1"]
    sets = [*job, "parallelism.deepspeed_version=0.14.0"]
    found = simulate("dgx-h100", "llama3-8b-lora", overrides=sets, scaling=False, fixes=False)
    assert "workload.parallelism.deepspeed_version" in {w.path for w in found.warnings}


def test_keys_that_a_step_of_post_training_does_not_take_are_told():
    rollouts = "post_training={algorithm: dpo, prompts: 64}"
    more = ["post_training.samples=4", "global_batch=64", "micro_batch=4"]
    found = posttrain("dgx-h100", "llama3-8b-sft", overrides=[rollouts, *more])
    assert set(found.idle) == {"post_training.samples", "global_batch"}


def test_slips_in_files_of_prices_and_jobs_are_faults(tmp_path):
    """A column that is nearly one was left out, and `every` without a `count` meant nothing."""
    path = tmp_path / "own.csv"
    head = "provider,instance,gpu,gpus_per_node,usd_per_gpu_hour,country_name,spot_usd_per_gpu_hr"
    path.write_text(f"{head}\nmine,box,h100-sxm-80gb,8,2.0,Norway,1.0\n")
    with pytest.raises(InputError) as refused:
        prices_list(prices=path)
    said = 'spot_usd_per_gpu_hr: unknown column; did you mean "spot_usd_per_gpu_hour"?'
    assert [f"{f.path}: {f.message}" for f in refused.value.faults] == [said]
    job = {"name": "a", "workload": "llama3-8b-sft", "every": "1 h"}
    with pytest.raises(InputError, match=r"jobs\[0\].every: is from one to the next: add count"):
        plan("dgx-h100", {"jobs": [job]}, replicas=0)


def test_nothing_is_advised_that_is_then_warned_of():
    """A sample of `bench.advised`: 200 jobs were tried, 550 changes made."""
    found = list(tried(10, seed=11))
    assert len(found) > 10
    assert [(one.change, one.said) for one in found if one.said] == []


def test_advice_that_a_warning_follows_is_found():
    """A knob that does nothing in this job, were it advised."""
    job = {"name": "w", "model": "gpt2-xl", "sequence_length": 512, "steps": 10}
    found = simulate("h100-x1", job, scaling=False, fixes=False)
    assert "changes nothing in this job" in against(
        "h100-x1", job, found, {"parallelism.pipeline_schedule": "gpipe"}
    )
    assert "is not one of" in against("h100-x1", job, found, {"precision": "fp7"})


def test_no_key_of_a_machine_is_silent():
    """Kinds of network and of NIC were: what a job says by that name is never idle."""
    ends = {(one.strategy, one.key, one.value): one.how for one in of_machines()}
    assert [place for place, how in ends.items() if how == "silent"] == []
    assert ends["nodes=1", "network.kind", "fat-tree"] == "warned"
    assert ends["nodes=1", "node.nics.kind", "roce"] == "warned"
    assert ends["nodes=2", "node.nics.kind", "tcp"] == "moved"


@pytest.mark.parametrize("machine", ["dgx-h100", "h100-x1"])
@pytest.mark.parametrize("job", ["llama3-8b-lora", "mistral-7b-lora"])
def test_what_is_advised_is_not_warned_of_as_idle(machine, job):
    """`precision=fp8` was, by the recipe that it brings and that nobody set."""
    advised = [fix.change for fix in simulate(machine, job, scaling=False).bottleneck.fixes]
    assert any("precision" in change for change in advised)
    for change in [*advised, {"precision": "fp8", "compile": True}]:
        found = simulate(machine, job, overrides=change, scaling=False, fixes=False)
        assert [w.path for w in found.warnings if w.code == "idle-key"] == [], change


def test_grouping_of_rows_whose_lengths_nothing_says_asks_for_them_alone():
    """Where they are said it matters, so that a hint to leave it out would be against the other."""
    sets = ["data={packing: false, group_by_length: true}"]
    found = simulate("dgx-h100", "llama3-8b-sft", overrides=sets, scaling=False, fixes=False)
    codes = [warning.code for warning in found.warnings]
    assert ("padding" in codes, "idle-key" in codes) == (True, False)
