"""One list of changes worth trying: what a change says it sets is what every verb simulates."""

import json
import shlex

import pytest

import sim
from sim.errors import InputError
from sim.inputs.loader import load
from sim.memory.bound import solve
from sim.memory.report import memory
from sim.report.memory import view as memory_view
from sim.report.run import fixes_table
from sim.report.settings import settings
from sim.report.view import Table
from sim.result.advice import changes, shorter
from sim.result.predict import predict
from sim.result.trials import adds, ranked, smaller
from sim.result.warned import warnings_of
from sim.step.step import step

JOBS = [
    ("dgx-h100", "llama3-8b-sft", ["nodes=2"]),
    ("dgx-h100", "llama3-8b-sft", ["attention=eager", "micro_batch=6", "loss=huggingface"]),
    ("dgx-a100", "llama3-70b-full", ["activation_checkpointing=none"]),
    ("dgx-a100", "llama3-8b-32k", ["activation_checkpointing={selective: op}"]),
    ("dgx-a100", "mistral-7b-lora", ["parallelism={strategy: ddp}"]),
    ("dgx-a100", "mistral-7b-lora", ["parallelism={strategy: zero3, deepspeed_version: 0.14.0}",
                                     "activation_checkpointing={full: {reentrant: true}}"]),
    ("dgx-a100", "mistral-7b-lora", ["parallelism={strategy: fsdp1, wrap: peft}",
                                     "activation_checkpointing={full: {reentrant: true}}"]),
    ("dgx-a100", "mistral-7b-lora", ["parallelism={strategy: fsdp1, gradient_sync: last}",
                                     "trainer=none", "gradient_accumulation=4"]),
    ("dgx-h100", "llama3-8b-sft", ["parallelism={strategy: zero2}"]),
    ("dgx-h100", "llama3-8b-sft", ["parallelism={strategy: zero3, offload: all}"]),
    ("dgx-h100", "llama3-8b-sft", ["parallelism={strategy: fsdp2, reshard_after_forward: false}"]),
]  # fmt: skip


@pytest.mark.parametrize(("time", "worth"), [(0.79, True), (0.799, False), (0.82, False)])
def test_a_change_is_worth_what_it_adds_to_its_parts(time, worth):
    """0.8 x (1 - 0.005) = 0.796 is the most that FP8 under torch.compile may take."""
    fp8 = {"precision": {"fp8": {"recipe": "tensorwise"}}, "compile": True}
    others = [({"compile": True}, 0.8), ({"attention": "flash3"}, 0.5), (fp8, time)]
    assert adds(fp8, time, others) == worth
    assert adds({"compile": True}, 0.8, others)


@pytest.mark.parametrize("aim", ["faster", "smaller"])
@pytest.mark.parametrize(("topology", "workload", "sets"), JOBS)
def test_settings_give_the_job_that_is_simulated(topology, workload, sets, aim):
    loaded = load(topology, workload, sets)
    found = list(changes(loaded.topology, loaded.workload, aim))
    assert found
    assert len({change.name for change in found}) == len(found)
    for change in found:
        words = shlex.split(settings(change.settings))
        typed = [word for word in words if word != "--set"]
        again = load(topology, workload, [*sets, *typed])
        fixed = {"global_batch": None}  # the loader may note the accumulation's origin
        assert again.topology == change.topology, change.text
        assert again.workload.model_copy(update=fixed) == change.workload.model_copy(update=fixed)


@pytest.mark.parametrize(
    ("sets", "offered"),
    [
        (["attention=flash1"], True),
        (["attention=sdpa", "stack.torch=2.1", "parallelism=fsdp1"], True),
        (["attention=sdpa"], False),
        (["attention=flash2"], False),
    ],
)
def test_attention_of_2022_is_told_of_its_successor(sets, offered):
    """PyTorch's own before 2.2 too; it is faster on an A100, and keeps as much."""
    topology, job, _ = load("dgx-a100", "llama3-8b-sft", ["sequence_length=4096", *sets])
    found = [c for c in changes(topology, job, "faster") if "attention" in c.name]
    assert [c.settings for c in found] == [{"attention": "flash2"}] * offered
    for change in found:
        before, after = (step(topology, w).time_s for w in (job, change.workload))
        assert after < 0.95 * before


def test_changes_that_the_loader_would_refuse_are_not_offered():
    # groups of 8 for the resharding do not fit into HSDP's groups of 8
    sets = ["nodes=2", "parallelism={strategy: fsdp2, reshard_after_forward: 8}"]
    hsdp = "HSDP: shard within a node, replicate across"
    loaded = load("dgx-h100", "llama3-8b-sft", sets)
    assert hsdp not in {c.text for c in changes(loaded.topology, loaded.workload, "faster")}
    with pytest.raises(InputError, match="does not divide"):
        load("dgx-h100", "llama3-8b-sft", [*sets, "parallelism.replicate=2"])
    plain = load("dgx-h100", "llama3-8b-sft", sets[:1])
    assert hsdp in {c.text for c in changes(plain.topology, plain.workload, "faster")}


def test_what_stages_do_once_a_step_is_not_proposed_again():
    """A pipeline gathers parameters and reduces gradients once, whatever the two keys say."""
    layout = "parallelism={strategy: fsdp2, pipeline_parallel: 2}"
    loaded = load("dgx-h100", "llama3-8b-sft", ["gradient_accumulation=8", layout])
    named = {key for c in changes(loaded.topology, loaded.workload, "faster") for key in c.settings}
    assert "parallelism.reduce_dtype" in named
    assert not {"parallelism.gradient_sync", "parallelism.reshard_after_forward"} & named


TUNED = ["model=qwen2.5-14b", "trainer=huggingface", "sequence_length=4096", "micro_batch=4",
         "gradient_accumulation=4", "activation_checkpointing=full", "attention=flash2",
         "parallelism={strategy: ddp}", "loss=fused-linear", "compile=true"]  # fmt: skip
ETHERNET = ["nodes=2", "node.nics={count: 1, rate: 100 Gb/s}", "activation_checkpointing=none",
            "sequence_length=4096", "micro_batch=1", "gradient_accumulation=16"]  # fmt: skip


@pytest.mark.parametrize(
    ("job", "sets", "text"),
    [
        ("mistral-7b-lora", TUNED, "no activation checkpointing in smaller micro-batches"),
        ("mistral-7b-lora", ["micro_batch=4", "activation_checkpointing={selective: op}"],
         "no activation checkpointing in smaller micro-batches"),
        ("llama3-8b-sft", ETHERNET, "full activation checkpointing in larger micro-batches"),
        ("llama3-8b-sft", ETHERNET, "per-op activation checkpointing in larger micro-batches"),
    ],
)  # fmt: skip
def test_checkpointing_comes_with_the_largest_micro_batch_at_which_it_fits(job, sets, text):
    """One change: neither half of it alone fits, or gains anything."""
    loaded = load("dgx-h100", job, sets)
    before = loaded.workload
    [change] = [c for c in changes(loaded.topology, before, "faster") if c.text == text]
    size, steps = change.settings["micro_batch"], change.settings["gradient_accumulation"]
    samples = before.micro_batch * before.gradient_accumulation
    assert size * steps == samples
    assert (size > before.micro_batch) == ("larger" in text)
    assert memory(change.topology, change.workload).verdict.word == "fits"
    further = next((n for n in range(size + 1, samples + 1) if samples % n == 0), None)
    if further:
        more = {"micro_batch": further, "gradient_accumulation": samples // further}
        room = memory(change.topology, change.workload.model_copy(update=more))
        assert room.verdict.word != "fits"
    quicker = step(change.topology, change.workload).time_s
    assert quicker < 0.9 * step(loaded.topology, before).time_s


def test_a_trainer_is_not_told_what_it_has_no_word_for():
    """transformers' gradient_checkpointing is of whole blocks; a loop of one's own has any."""
    loaded = load("dgx-h100", "mistral-7b-lora", TUNED)
    free = load("dgx-h100", "mistral-7b-lora", [*TUNED, "trainer=none"])
    named, others = (
        {c.text for c in changes(one.topology, one.workload, "faster") if "per-op" in c.text}
        for one in (loaded, free)
    )
    assert (named, others) == (
        set(),
        {
            "per-op activation checkpointing",
            "per-op activation checkpointing in smaller micro-batches",
        },
    )


def test_nothing_worth_trying_is_warned_of():
    """Neither of what is written, nor of memory, nor of how the step runs."""
    for machine, job, sets in JOBS:
        loaded = load(machine, job, sets)
        before = sim.simulate(machine, job, overrides=sets, scaling=False)
        known = {w.code for w in before.warnings}
        for fix in before.bottleneck.fixes if before.memory.fits else ():
            [change] = [c for c in changes(loaded.topology, loaded.workload, "faster")
                        if c.settings == fix.change]  # fmt: skip
            said = warnings_of(change.topology, change.workload)
            assert {w.code for w in said} <= known, fix.description


def test_run_and_memory_say_the_same_of_a_change():
    loaded = load("dgx-a100", "llama3-70b-full")
    result = predict(loaded.topology, loaded.workload, scaling=False)
    assert not result.memory.fits
    listed = {f.description: f for f in smaller(loaded.topology, loaded.workload)}
    assert "parameters and optimizer in host memory" in listed
    assert result.bottleneck.fixes[0].fits
    for fix in result.bottleneck.fixes:
        same = listed[fix.description]
        assert fix.change == same.change
        assert fix.step_time_ratio == 1.0 + same.time_cost
        assert fix.memory_bytes == same.needed_bytes
        assert fix.fits == same.fits


def test_a_step_that_the_allocator_holds_up_says_so():
    """Mistral 7B on two L40S of a virtual server: 96 times 0.1 s."""
    sets = ["node.gpus=2", "method=full", "micro_batch=1", "gradient_accumulation=4",
            "precision={bf16: {master: bf16}}", "activation_checkpointing=full",
            "parallelism={strategy: fsdp1, gradient_sync: last, reduce_dtype: bf16}"]  # fmt: skip
    loaded = load("l40s-8-virtual", "mistral-7b-lora", sets)
    found = predict(loaded.topology, loaded.workload, scaling=False, fixes=False)
    assert found.bottleneck.kind == "allocator"
    assert found.bottleneck.share == pytest.approx(9.6 / found.step.time_s)
    assert any(w.code == "allocator-retries" for w in found.warnings)


def test_a_job_that_fits_is_offered_what_is_faster_and_still_fits():
    loaded = load("dgx-h100", "llama3-8b-sft")
    now = step(loaded.topology, loaded.workload)
    found = ranked(loaded.topology, loaded.workload, now.breakdown, now.memory.fits)
    ratios = [fix.step_time_ratio for fix in found]
    assert ratios == sorted(ratios)
    assert ratios[-1] < 0.995
    offered = {c.text: c for c in changes(loaded.topology, loaded.workload, "faster")}
    for fix in found:
        change = offered[fix.description]
        changed = step(change.topology, change.workload)
        assert fix.fits
        assert fix.memory_bytes == changed.memory.needed_bytes
        tokens = change.workload.micro_batch * change.workload.gradient_accumulation
        before = loaded.workload.micro_batch * loaded.workload.gradient_accumulation
        ratio = changed.time_s / tokens / (now.time_s / before)
        assert fix.step_time_ratio == pytest.approx(ratio, rel=1e-12)


def test_checkpointing_that_is_not_reentrant_where_inputs_pile_up():
    """2 x 32 - 5 of 8,192 x 4,096 in bf16 at the peak: block 2, with block 1 gathered ahead."""
    reentrant = "activation_checkpointing={full: {reentrant: true}}"
    text, kept = "checkpointing that is not reentrant", "block inputs and gradients kept by hooks"

    def found(*sets, aim="smaller"):
        loaded = load("dgx-a100", "mistral-7b-lora", [reentrant, *sets])
        return loaded, {c.text: c for c in changes(loaded.topology, loaded.workload, aim)}

    loaded, offered = found("parallelism={strategy: fsdp1, wrap: peft}")
    assert text in found("parallelism={strategy: fsdp1, wrap: peft}", aim="faster")[1]
    report = memory(loaded.topology, loaded.workload)
    assert report.terms[kept] == 59 * 2 * 8192 * 4096
    (warning,) = (w for w in report.warnings if w.code == "memory.fsdp1-inputs-pile-up")
    assert "4.1 GB" in warning.message
    without = offered[text]
    report = memory(without.topology, without.workload)
    assert kept not in report.terms
    assert not report.warnings
    assert text not in found("parallelism={strategy: fsdp1}")[1]
    assert text not in found("parallelism={strategy: fsdp2}")[1]
    inside = "parallelism={strategy: fsdp1, wrap: peft, checkpoint_wrapper: inside}"
    assert text not in found(inside)[1]


def test_gradients_of_frozen_weights_that_no_sync_keeps():
    """LoRA of 13B, on two A100s of 40 GB out of memory: whole gradients, 23.6 GiB, are the most."""
    machine = ["node.gpus=2", "node.gpu=a100-sxm-40gb", "node.nvlink.generation=3",
               "node.nvlink.links_per_gpu=12", "node.nvlink.fabric=nvswitch"]  # fmt: skip
    job = {
        "name": "litgpt", "model": "llama-2-13b", "sequence_length": 1304, "trainer": "none",
        "method": {"lora": {"rank": 8, "targets": ["q", "v"]}}, "gradient_accumulation": 8,
        "precision": {"bf16": {"master": "bf16"}}, "activation_checkpointing": "full",
        "parallelism": {"strategy": "fsdp1", "reduce_dtype": "bf16", "gradient_sync": "last"},
    }  # fmt: skip
    loaded = load("a100-x1", job, machine)
    now = memory(loaded.topology, loaded.workload)
    assert not now.fits
    found = list(changes(loaded.topology, loaded.workload, "smaller"))
    saves = {"wrap": ("peft", 24.3), "gradient_sync": ("every", 12.1)}
    for key, (value, saved) in saves.items():
        (change,) = (c for c in found if c.settings == {f"parallelism.{key}": value})
        then = memory(change.topology, change.workload)
        assert then.fits
        assert (now.needed_bytes - then.needed_bytes) / 2**30 == pytest.approx(saved, abs=0.2)


def test_a_base_of_adapters_that_was_loaded_in_fp32_is_offered_narrower():
    """Each product casts it anyway; in bf16 it takes 2 B less a weight: 14.5 GB of 7.25 G."""
    alone = ["parallelism=single"]
    found = load("h100-x1", "mistral-7b-lora", [*alone, "method.frozen_dtype=fp32"])
    text = "frozen weights loaded in bf16"
    for aim in ("faster", "smaller"):
        [change] = [c for c in changes(found.topology, found.workload, aim) if c.text == text]
        wide, narrow = (memory(each.topology, each.workload) for each in (found, change))
        held = (each.by_category["sharded_parameters"] for each in (wide, narrow))
        assert next(held) - next(held) == 2 * 7_241_732_096
    narrow = load("h100-x1", "mistral-7b-lora", alone)
    assert all(c.text != text for c in changes(narrow.topology, narrow.workload, "smaller"))


def test_one_gpu_needs_no_strategy():
    """FSDP2 copies every parameter into buffers that no other GPU fills."""
    pure = ["model=llama-3.2-1b", "precision={bf16: {master: bf16}}", "optimizer=adamw-bf16",
            "sequence_length=256", "micro_batch=1", "gradient_accumulation=1"]  # fmt: skip
    machine, job, _ = load("a100-x1", "llama3-8b-sft", ["parallelism=fsdp2", *pure])
    found = [c for c in changes(machine, job, "faster") if c.settings == {"parallelism": "single"}]
    assert len(found) == 1
    assert step(machine, found[0].workload).time_s < step(machine, job).time_s
    alone = load("a100-x1", "llama3-8b-sft", ["parallelism=single", *pure])
    assert found[0].workload.parallelism == alone.workload.parallelism
    assert not [c for c in changes(*alone[:2], "faster") if "parallelism" in c.settings]
    eight = load("dgx-a100", "llama3-8b-lora", ["parallelism=fsdp2"])
    assert not [c for c in changes(*eight[:2], "faster") if "parallelism" in c.settings]


def test_what_the_loader_warns_of_is_not_advised():
    """FP8 products over 4-bit weights: the loader says that no library does that."""
    topology, workload, _ = load("dgx-h100", "llama3-70b-qlora", ["nodes=1"])
    said = {change.text for change in changes(topology, workload, "faster")}
    assert "torch.compile fuses element-wise kernels" in said
    assert not any("FP8" in text for text in said)


HOST_ONLY = {
    "name": "offloaded", "model": "qwen2.5-32b", "sequence_length": 4096, "steps": 10,
    "parallelism": {"strategy": "zero3", "offload": "all"}, "loss": "huggingface",
    "activation_checkpointing": "full",
}  # fmt: skip


def test_what_the_host_lacks_is_mended_on_the_host() -> None:
    """A loss that saves the GPU's memory does not make a job fit whose host is full."""
    loaded = load("workstation-4x4090", HOST_ONLY)
    before = memory(loaded.topology, loaded.workload)
    assert before.verdict.host_decides
    found = smaller(loaded.topology, loaded.workload)
    assert [fix.description for fix in found if "loss" in fix.description] == []
    assert [fix for fix in found if "optimizer" in fix.change] == []  # its Adam has 32 bits
    (disks,) = [fix for fix in found if fix.change == {"parallelism.offload_device": "nvme"}]
    assert disks.needed_bytes == pytest.approx(before.host_bytes - disks.saved_bytes)
    assert disks.saved_bytes > 500e9
    assert disks.time_cost > 0.2


def test_sequences_are_cut_where_they_alone_are_too_much() -> None:
    """32B on 16 H100 trains at 20,000 tokens, not at 32,000: the thread's own cure.

    Source: simplescaling/s1 issues 13 and 22. Of 70B on eight A100s no length fits.
    """
    job = {
        "name": "s1", "model": "qwen2.5-32b", "sequence_length": 32_000, "steps": 10,
        "parallelism": {"strategy": "fsdp1"}, "activation_checkpointing": "full",
        "attention": "sdpa", "loss": "eager",
    }  # fmt: skip
    loaded = load("dgx-h100", job, ["nodes=2"])
    (cut,) = [f for f in smaller(loaded.topology, loaded.workload) if "sequence_length" in f.change]
    assert cut.fits
    assert cut.changes_training
    length = solve(loaded.topology, loaded.workload, "sequence_length").value
    assert cut.description == f"sequences cut to {length:,} tokens"
    assert 20_000 <= length < 32_000
    states = load("dgx-a100", "llama3-70b-full")
    assert not memory(states.topology, states.workload).fits
    assert shorter(states.topology, states.workload) is None


def test_a_host_that_is_nearly_full_is_the_risk_that_is_told() -> None:
    """70B under ZeRO-3, all offloaded: 26.9 B a parameter, 1,895 of 2,000 GB; GPUs have room."""
    loaded = load("dgx-a100", HOST_ONLY | {"model": "llama-3.1-70b"}, ["nodes=1"])
    before = memory(loaded.topology, loaded.workload)
    assert before.host_bytes == pytest.approx(26.9 * 70.55e9, rel=0.01)
    assert before.verdict.word == "at risk"
    assert before.verdict.risk.endswith("of 1862.6 GiB a node, may not do")
    found = smaller(loaded.topology, loaded.workload)
    (disks,) = [fix for fix in found if fix.change == {"parallelism.offload_device": "nvme"}]
    assert disks.needed_bytes == pytest.approx(before.host_bytes - disks.saved_bytes)
    assert not any("loss" in fix.change for fix in found)
    roomy = load("dgx-a100", HOST_ONLY, ["nodes=1"])
    assert not memory(roomy.topology, roomy.workload).verdict.host_decides


def test_a_job_that_need_not_offload_is_told() -> None:
    small = load("dgx-h100", HOST_ONLY | {"model": "qwen2.5-7b"}, ["nodes=1"])
    now = step(small.topology, small.workload).breakdown
    first = ranked(*small[:2], now, fits=True)[0]
    assert first.change == {"parallelism.offload": "none"}
    assert first.step_time_ratio < 0.7


def test_a_pipeline_full_of_messages_is_advised_fewer_of_them():
    """256 GiB of messages from 4,096 micro-batches: a sixteenth of them, or so many on more."""
    sets = ["nodes=64", "parallelism.tensor_parallel=8", "parallelism.pipeline_parallel=16",
            "gradient_accumulation=4096", "micro_batch=1", "sequence_length=8192",
            "parallelism.strategy=fsdp2", "model=llama-3.1-405b"]  # fmt: skip
    loaded = load("dgx-h100", "llama3-70b-full", sets)
    before = memory(loaded.topology, loaded.workload)
    assert before.by_category["pipeline_messages"] == 256 * 2**30
    few = [c for c in changes(loaded.topology, loaded.workload, "smaller")
           if "gradient_accumulation" in c.settings]  # fmt: skip
    assert [c.settings for c in few] == [
        {"gradient_accumulation": 256}, {"nodes": 1024, "gradient_accumulation": 256},
    ]  # fmt: skip
    assert [c.changes_training for c in few] == [True, False]
    for change in few:
        after = memory(change.topology, change.workload)
        assert before.needed_bytes - after.needed_bytes > 230 * 2**30
    batches = [c.topology.nodes * c.workload.gradient_accumulation for c in few]
    assert batches == [64 * 256, 64 * 4096]


BOTH = ["sequence_length=2048", "micro_batch=4", "gradient_accumulation=4"]


def test_where_gpu_and_host_lack_memory_what_fits_is_a_combination():
    """No loss or micro-batch alone frees both; an adapter on a smaller loss does."""
    loaded = load("workstation-4x4090", HOST_ONLY, BOTH)
    before = memory(loaded.topology, loaded.workload).verdict
    assert not before.on_gpu
    assert not before.on_host
    found = smaller(loaded.topology, loaded.workload)
    [cure] = [fix for fix in found if fix.fits]
    assert found[0] is cure
    assert cure.changes_training
    assert {"method", "loss"} <= set(cure.change)
    sets = [f"{key}={json.dumps(value)}" for key, value in cure.change.items()]
    after = load("workstation-4x4090", HOST_ONLY, [*BOTH, *sets])
    verdict = memory(after.topology, after.workload).verdict
    assert verdict.fits
    assert verdict.needed_bytes == cure.needed_bytes
    now = step(loaded.topology, loaded.workload).breakdown
    first = ranked(*loaded[:2], now, fits=False)[0]
    assert first.change == cure.change


def test_where_nothing_makes_a_job_fit_that_is_said():
    sets = {"model": "llama-3.1-405b", "parallelism": {"strategy": "fsdp2", "offload": "all"}}
    ran = sim.simulate("workstation-4x4090", HOST_ONLY | sets, scaling=False)
    assert ran.bottleneck.fixes
    assert not any(fix.fits for fix in ran.bottleneck.fixes)
    assert fixes_table(ran).heading.endswith("; none makes it fit)")
    found = memory_view(sim.memory_of("workstation-4x4090", HOST_ONLY | sets))
    titles = [part.heading for part in found.sections if isinstance(part, Table)]
    assert any("none of which makes it fit" in title for title in titles)
