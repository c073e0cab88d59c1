"""A frozen model beside the one that is trained: its passes, its copy, files that ask for it."""

import pytest

import sim
from sim.blocks.flops import token_flops
from sim.blocks.parameters import count_parameters
from sim.inputs.loader import load
from sim.interop.emit import texts_of
from sim.result.explain import explain
from sim.step.reference import reference_notes
from sim.step.step import quick, step
from sim.step.variation import Slow, Variation
from sim.study.generation import forward_s
from tests.imported import mattering

H100 = load("dgx-h100", "llama3-8b-sft").topology.first_gpu
SFT, LORA = "llama3-8b-sft", "llama3-8b-lora"
DPO = """\
model = AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-7B", torch_dtype=torch.bfloat16)
args = DPOConfig(per_device_train_batch_size=2, max_length=2048, bf16=True{})
DPOTrainer(model=model, args=args{}).train()
"""
REFERENCE = 'ref = AutoModelForCausalLM.from_pretrained("Qwen/Qwen2.5-{}")\n'
KTO = """\
model_name_or_path: Qwen/Qwen2.5-7B
stage: kto
finetuning_type: {}
cutoff_len: 2048
bf16: true
"""


def stepped(job, *sets):
    loaded = load("dgx-h100", job, sets)
    return quick(loaded.topology, loaded.workload), loaded.workload


@pytest.mark.parametrize("strategy", ["fsdp2", "fsdp1", "ddp", "zero2", "zero3"])
@pytest.mark.parametrize(("job", "kind"), [(SFT, "copy"), (LORA, "copy"), (LORA, "adapters-off")])
def test_a_pass_is_a_forward_of_each_micro_step(strategy, job, kind):
    """A quarter of a step that recomputes: forward 1, backward 2 and recompute 1 more.

    Of frozen weights' 1, 1 and 1 somewhat less than a third: adapters take a fifth of the rest.
    """
    own = (f"parallelism.strategy={strategy}", "stack.nccl=2.21")
    plain, workload = stepped(job, *own)
    passes = [stepped(job, *own, f"reference={kind}", f"reference_passes={n}")[0] for n in (1, 3)]
    one, three = (found.time_s - plain.time_s for found in passes)
    assert three == pytest.approx(3 * one)
    share = one / plain.time_s
    assert (0.24 if job == SFT else 0.2) < share < 0.26
    # its kernels alone, where nothing is gathered for them, and little beside
    kernels = workload.gradient_accumulation * forward_s(workload, H100)
    if job == SFT and strategy in ("ddp", "zero2"):
        assert kernels < one < 1.1 * kernels


@pytest.mark.parametrize("strategy", ["fsdp2", "fsdp1", "ddp", "zero1", "zero2", "zero3"])
def test_passes_where_ranks_differ(strategy):
    """H100s wait for the A100s in these too (groups of no ranks were an internal error)."""
    found = load("mixed-h100-a100", LORA, [f"parallelism.strategy={strategy}", "stack.nccl=2.21"])
    beside = found.workload.model_copy(update={"reference": "copy"})
    plain, both = (step(found.topology, job) for job in (found.workload, beside))
    passes = both.time_s - plain.time_s
    assert passes > 0.15 * plain.time_s
    for before, group in zip(plain.ranks, both.ranks, strict=True):
        assert group.ranks == before.ranks
        parts = group.compute_s + group.waiting_s + group.communication_s + group.idle_s
        assert parts == pytest.approx(both.time_s)
        assert sum(both.breakdown.by_gpu[group.role.gpu.name].values()) == pytest.approx(parts)
    fast, slow = (b.compute_s - a.compute_s for a, b in zip(plain.ranks, both.ranks, strict=True))
    assert slow == pytest.approx(passes, rel=0.1)
    assert fast < 0.75 * slow


@pytest.mark.parametrize(
    ("machine", "job", "sets", "variation"),
    [
        ("aws-p4d", LORA, ["nodes=8", "parallelism.offload=all"], Variation()),
        ("dgx-h100", LORA, [], Variation(slow=(Slow("rank", "3", 0.5),))),
        ("dgx-h100", LORA, ["nodes=8"], Variation(slow=(Slow("rank", "3", 0.5),))),
        ("dgx-h100", LORA, [], Variation(jitter=0.05, replicas=3)),
    ],
)
def test_ranks_of_steps_with_passes(machine, job, sets, variation):
    """Their times add up to the step's; a rank of half the speed takes twice as long a pass."""
    loaded = load(machine, job, [*sets, "reference=adapters-off"])
    none = loaded.workload.model_copy(update={"reference": "none"})
    even, plain, found = (
        step(loaded.topology, run, variation=kind)
        for run, kind in (
            (loaded.workload, Variation()), (none, variation), (loaded.workload, variation),
        )
    )  # fmt: skip
    for group in found.ranks:
        parts = group.compute_s + group.waiting_s + group.communication_s + group.idle_s
        assert parts == pytest.approx(found.time_s, rel=1e-3)
    if variation.slow:
        usual = even.time_s - quick(loaded.topology, none).time_s
        assert found.time_s - plain.time_s == pytest.approx(2 * usual, rel=0.1)
        assert sum(g.waiting_s for g in found.ranks) > sum(g.waiting_s for g in plain.ranks)


def test_flops_of_a_pass():
    """Forward's, of the base alone: 2 a weight that multiplies, and attention's half of 12."""
    _, plain = stepped(LORA)
    _, off = stepped(LORA, "reference=adapters-off", "reference_passes=2")
    m = plain.model
    weights = count_parameters(m).total - m.vocab_size * m.hidden_size - (2 * m.layers + 1) * 4096
    attention = 4 * m.layers * m.heads * m.head_dim * plain.sequence_length
    found = token_flops(off)
    assert found.reference == 2 * (2 * weights + attention)
    assert found.hardware == token_flops(plain).hardware + found.reference
    assert found.model == token_flops(plain).model


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # a shard of 8.03e9 bf16 weights, and the root that FSDP leaves gathered: two tables, a norm
        (["parallelism.strategy=fsdp2"], 2 * 8030261248 / 8 + 2 * (2 * 128256 * 4096 + 4096)),
        (["parallelism.strategy=fsdp1"], 2 * 8030261248 / 8 + 2 * (2 * 128256 * 4096 + 4096)),
        (["parallelism.strategy=fsdp2", "parallelism.reshard_after_forward=false"],
         2 * 8030261248 / 8 + 2 * 8030261248),
        (["parallelism.strategy=zero3"], 2 * 8030261248 / 8),
        (["parallelism.strategy=zero2"], 2 * 8030261248),
        (["parallelism.strategy=ddp"], 2 * 8030261248),
        (["parallelism.strategy=ddp", "reference_dtype=fp32"], 4 * 8030261248),
    ],
)  # fmt: skip
def test_memory_of_a_copy(settings, expected):
    plain, _ = stepped(LORA, *settings)
    found, _ = stepped(LORA, *settings, "reference=copy")
    more = found.memory.terms["reference model"]
    assert more == pytest.approx(expected, rel=1e-3)
    rise = found.memory.peak_allocated_bytes - plain.memory.peak_allocated_bytes
    assert rise == pytest.approx(more)
    assert all(
        found.memory.by_moment[m] - plain.memory.by_moment[m] == pytest.approx(more)
        for m in ("init", "forward", "save")
    )


def test_explain_tells_the_passes_apart():
    """They were in contention and host: 2.9 of 13.1 s."""
    found = load("dgx-h100", SFT, ["reference=copy"])
    full = explain(found.topology, found.workload).methods[0]
    assert full.parts["reference's forwards"] == pytest.approx(full.step_s / 5, rel=0.05)
    assert full.parts["contention and host"] < 0.1 * full.step_s
    assert sum(full.parts.values()) == pytest.approx(full.step_s)


def test_explain_has_a_copy_where_nothing_is_adapted():
    """A full fine-tune had the time of a reference and not its memory."""
    found = load("dgx-h100", LORA, ["reference=adapters-off"])
    full, lora = explain(found.topology, found.workload).methods
    copy = stepped(LORA, "method=full", "reference=copy")[0]
    assert full.memory_bytes == pytest.approx(copy.memory.needed_bytes)
    assert full.step_s == pytest.approx(copy.time_s)
    assert lora.step_s == pytest.approx(stepped(LORA, "reference=adapters-off")[0].time_s)


def test_adapters_off_take_no_memory():
    assert (
        stepped(LORA, "reference=adapters-off")[0].memory.needed_bytes
        == stepped(LORA)[0].memory.needed_bytes
    )


@pytest.mark.parametrize(
    ("job", "sets", "code"),
    [
        (SFT, ["reference=adapters-off"], "reference-adapters"),
        (SFT, ["reference=copy", "parallelism.offload=all"], "reference-offload"),
        (SFT, ["reference=copy", "parallelism.pipeline_parallel=2"], "reference-strategy"),
        (SFT, ["reference=copy", "parallelism.strategy=megatron"], "reference-strategy"),
    ],
)
def test_what_is_not_modelled_is_refused(job, sets, code):
    with pytest.raises(sim.InputError, match=code):
        load("dgx-h100", job, sets)


@pytest.mark.parametrize(
    ("name", "text", "reference", "passes", "told"),
    [
        ("run.py", DPO.format("", ""), "copy", 1, ""),
        ("run.py", DPO.format("", ", peft_config=LoraConfig(r=16)"), "adapters-off", 1, ""),
        ("run.py", DPO.format(", precompute_ref_log_probs=True", ""), "itself", 1, ""),
        ("run.py", DPO.format(
            ", precompute_ref_log_probs=True", ", peft_config=LoraConfig(r=16)"),
         "adapters-off", 0, ""),
        # TRL's copy stays where its passes are made before; LLaMA-Factory's is a model of its own
        ("run.py", REFERENCE.format("7B") + DPO.format(
            ", precompute_ref_log_probs=True", ", ref_model=ref"), "copy", 0, ""),
        ("run.py", REFERENCE.format("7B") + DPO.format("", ", ref_model=ref"), "copy", 1, ""),
        ("run.py", REFERENCE.format("0.5B") + DPO.format("", ", ref_model=ref"), "copy", 1,
         "another model"),
        ("run.py", DPO.format("", ", ref_model=deepcopy(model)"), "copy", 1, ""),
        ("run.py", DPO.format("", ", ref_model=None"), "copy", 1, ""),
        ("dpo.yaml", KTO.format("lora").replace("kto", "dpo\nref_model: Qwen/Qwen2.5-7B"),
         "copy", 1, ""),
        ("dpo.yaml", KTO.format("lora").replace(
            "kto", "dpo\nref_model: Qwen/Qwen2.5-7B\nref_model_quantization_bit: 4"),
         "copy", 1, "4-bit weights of a reference"),
        ("kto.yaml", KTO.format("lora"), "adapters-off", 3, ""),
        ("kto.yaml", KTO.format("full"), "copy", 3, ""),
        ("orpo.yaml", KTO.format("lora").replace("kto", "dpo\npref_loss: orpo"), "none", 1, ""),
        ("dpo.yaml", KTO.format("full").replace("kto", "dpo\nref_model: Qwen/Qwen2.5-0.5B"),
         "copy", 1, "another model"),
    ],
)  # fmt: skip
def test_files_of_trainers(tmp_path, name, text, reference, passes, told):
    """DPO's frozen model was left out of a step, and said to be."""
    path = tmp_path / name
    path.write_text(text)
    job = load("dgx-h100", path).workload
    assert (job.reference, job.reference_passes) == (reference, passes)
    said = [row["why"] for row in mattering(path)]
    assert any(told in why for why in said) if told else said == []


@pytest.mark.parametrize("kind", ["full", "freeze"])
def test_llama_factory_loads_a_copy_in_16_bits(tmp_path, kind):
    """Of a partly frozen model it was fp32."""
    path = tmp_path / "dpo.yaml"
    path.write_text(KTO.format(kind).replace("kto", "dpo"))
    job = load("dgx-h100", path).workload
    assert (job.method.kind, job.reference, job.reference_dtype) == (kind, "copy", "bf16")


def test_passes_made_before_leave_the_copy():
    plain, before = (
        stepped(SFT, *sets)[0] for sets in ([], ["reference=copy", "reference_passes=0"])
    )
    assert before.time_s == plain.time_s
    copy = stepped(SFT, "reference=copy")[0].memory
    assert before.memory.needed_bytes > plain.memory.needed_bytes
    assert before.memory.needed_bytes == copy.needed_bytes


@pytest.mark.parametrize(
    ("job", "inside", "before"),
    [
        (LORA, ["reference=adapters-off"], ["reference=adapters-off", "reference_passes=0"]),
        (SFT, ["reference=copy", "reference_dtype=fp32"], ["reference=itself"]),
    ],
)
def test_passes_made_before_are_of_the_job(job, inside, before):
    """Each row once: of two epochs half as many as beside each micro-step, and paid for."""
    length = ["tokens=null", "samples=50000", "epochs=2", "checkpoint.interval=null",
              "offer={price_per_gpu_hour: 2 USD}"]  # fmt: skip
    plain, beside, ahead = (
        sim.simulate("dgx-h100", job, overrides=[*length, *sets], scaling=False, fixes=False)
        for sets in ([], inside, before)
    )
    assert ahead.step.time_s == plain.step.time_s
    each = beside.step.time_s - plain.step.time_s
    walls = [found.job.wall_clock_s for found in (plain, ahead)]
    rows = plain.job.steps / 2 * each
    assert walls[1] - walls[0] == pytest.approx(rows, rel=0.02)
    assert ahead.job.shares["setup"] == pytest.approx(rows / walls[1], rel=0.05)
    hours = ahead.cost.gpu_hours - plain.cost.gpu_hours  # paid for
    assert hours == pytest.approx(8 * rows / 3600, rel=0.02)
    assert any("before training" in line for line in ahead.assumptions)


def test_the_table_quotes_what_a_file_says(tmp_path):
    """It said `stage: copy` and `stage: 3`."""
    path = tmp_path / "kto.yaml"
    path.write_text(KTO.format("full"))
    said = {
        row["key"]: row["value"] for row in sim.import_job(path).took if row["theirs"] == "stage"
    }
    assert said == {"reference": "kto", "reference_passes": "kto"}


@pytest.mark.parametrize(
    ("job", "sets", "said"),
    [
        (SFT, ["reference=copy", "reference_dtype=bf16"], ["stage: dpo"]),
        (SFT, ["reference=copy", "reference_passes=3"], ["stage: kto"]),
        (LORA, ["reference=adapters-off"], ["stage: dpo"]),
        (LORA, ["reference=copy"], ["stage: dpo", "ref_model: "]),
    ],
)
def test_written_for_llama_factory(job, sets, said):
    """It was said not to be able to say it."""
    loaded = load("dgx-h100", job, [
        *sets, "micro_batch=2", "parallelism={strategy: ddp}", "attention=flash2",
        "trainer=huggingface", "data.packing=false", "global_batch=null", "precision=bf16",
    ])  # fmt: skip
    text = texts_of(loaded.topology, loaded.workload, "llamafactory")["llamafactory.yaml"]
    assert all(line in text for line in [*said, "per_device_train_batch_size: "])
    with pytest.raises(sim.InputError, match=r"reference_passes|micro_batch|reference"):
        texts_of(loaded.topology, loaded.workload, "trl")


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (["parallelism.strategy=fsdp2", "reference_passes=0"], True),
        (["parallelism.strategy=fsdp1", "reference_passes=0"], True),
        (["parallelism.strategy=fsdp2"], False),
        (["parallelism.strategy=zero3", "reference_passes=0"], False),
        (["parallelism.strategy=ddp", "reference_passes=0"], False),
    ],
)
def test_a_reference_before_fsdp_shards_is_warned_of(sets, told):
    """TRL 1.16, `_precompute_ref_logps`: ``self.ref_model or self.model``, as it was loaded."""
    found = load("dgx-h100", LORA, ["reference=adapters-off", *sets])
    assert ("reference-unsharded" in [w.code for w in found.notes.warnings]) == told


@pytest.mark.parametrize(("length", "said"), [("samples=50000", False), ("steps=100", True)])
def test_the_data_set_of_a_job_of_so_many_steps_is_supposed(length, said):
    sets = ["reference=itself", "tokens=null", "steps=null", "samples=null", length]
    found = load("dgx-h100", SFT, sets)
    (line,) = reference_notes(found.topology, found.workload)
    assert ("supposes that the data set" in line) == said


def test_epochs_beside_steps_shorten_no_pass_before_training():
    """They were said to count for nothing, and the job took 14 % less: a third of the pass."""
    sets = ["tokens=null", "reference=copy", "reference_passes=0", "steps=1000"]
    once, thrice = (
        sim.simulate("dgx-h100", "llama3-8b-sft", overrides=[*sets, *more]).job.wall_clock_s
        for more in ([], ["epochs=3"])
    )
    assert once == thrice
