"""Plans as files of tools, read back to the same plan; nothing changes in silence."""

import pytest
from click.testing import CliRunner
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import sim
from sim.cli import group
from sim.errors import InputError
from sim.inputs.checks import finish
from sim.inputs.loader import load
from sim.interop.emit import FILES, texts_of
from sim.interop.roundtrip import lost, read_back

JOBS = {
    "fsdp2": ["parallelism=fsdp2"],
    "fsdp2-kept": ["parallelism={strategy: fsdp2, reshard_after_forward: false}"],
    "hsdp": ["nodes=2", "parallelism={strategy: fsdp2, replicate: 2}"],
    "fsdp2-offload": ["parallelism={strategy: fsdp2, offload: all}"],
    "fsdp1": ["parallelism={strategy: fsdp1, backward_prefetch: post, forward_prefetch: 1}"],
    "ddp": ["parallelism=ddp"],
    "zero1": ["parallelism=zero1"],
    "zero2": ["parallelism={strategy: zero2, offload: optimizer}"],
    "zero3": ["parallelism={strategy: zero3, offload: all, stage3_prefetch_bucket_size: auto}"],
    "lora": ["method={lora: {rank: 8, targets: attention, dropout: 0.1}}"],
    "qlora": ["method={qlora: {rank: 32}}", "parallelism=ddp"],
    "no-checkpoint": ["activation_checkpointing=none"],
    "pure-bf16": ["precision={bf16: {master: bf16}}", "parallelism=ddp"],
    "liger": ["fused_kernels=all", "loss=fused-linear"],
    "8bit": ["optimizer=adamw-8bit", "attention=sdpa"],
}
TOOLS = [t for t in FILES if t != "yaml"]


def job(*sets):
    return load("dgx-h100", "llama3-8b-sft", sets)[:2]


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize("tool", TOOLS)
def test_a_plan_comes_back_as_it_was_or_is_refused(tool, name):
    topology, workload = job(*JOBS[name])
    try:
        texts = texts_of(topology, workload, tool)
    except InputError:
        return  # `test_every_strategy_can_be_written_for_some_tool` counts these
    wrong, _ = lost(texts, workload)
    assert wrong == []
    read, _ = read_back(texts, workload)
    assert read.parallelism.strategy == workload.parallelism.strategy
    if tool not in ("accelerate", "deepspeed"):  # which leave it to the trainer's arguments
        assert read.activation_checkpointing.kind == workload.activation_checkpointing.kind
        assert read.method == workload.method
        assert read.precision == workload.precision
        assert read.optimizer == workload.optimizer


def test_every_strategy_can_be_written_for_some_tool():
    for name, sets in JOBS.items():
        written = []
        for tool in TOOLS:
            try:
                texts_of(*job(*sets), tool)
            except InputError:
                continue
            written.append(tool)
        assert written, name


@pytest.mark.parametrize(("tool", "sets"), [
    ("axolotl", ["parallelism={strategy: fsdp2, pipeline_parallel: 2}"]),
    ("accelerate", ["parallelism={strategy: fsdp2, pipeline_parallel: 2}"]),
    ("deepspeed", ["parallelism=fsdp2"]),
    ("torchrun", ["parallelism=fsdp2"]),
    ("trl", ["precision=fp8", "compile=true"]),
    ("torchtitan", ["data={packing: false, mean_length: 99}"]),
    ("axolotl", ["data={packing: padding-free, mean_length: 99}"]),
])  # fmt: skip
def test_what_a_tool_cannot_say_is_refused(tool, sets):
    with pytest.raises(InputError, match="emit"):
        texts_of(*job(*sets), tool)


def test_checkpointing_is_done_once():
    """A trainer's own checkpointing and FSDP's wrapper beside it would recompute twice."""
    for tool in ("llamafactory", "trl", "sbatch", "axolotl"):
        texts = texts_of(*job("parallelism=fsdp2"), tool)
        whole = "\n".join(texts.values())
        on = whole.count("activation_checkpointing: true")
        on += whole.count("gradient_checkpointing: true") + whole.count("use_reentrant_gc:")
        assert on == 1, (tool, whole)


def test_a_launch_brings_the_files_that_it_names():
    assert set(texts_of(*job("parallelism=fsdp2"), "sbatch")) == {
        "job.sbatch", "accelerate.yaml", "sft.yaml",
    }  # fmt: skip
    assert set(texts_of(*job("parallelism=zero3"), "torchrun")) == {
        "torchrun.sh", "sft.yaml", "ds_config.json",
    }  # fmt: skip
    script = texts_of(*job("nodes=2", "parallelism=fsdp2"), "sbatch")["job.sbatch"]
    assert "#SBATCH --nodes=2" in script
    assert "--num_processes 16" in script


def test_export_writes_says_and_never_overwrites(tmp_path):
    call = ["export", "dgx-h100", "llama3-8b-lora", "--emit", "trl", "--emit", "accelerate"]
    run = lambda *more: CliRunner().invoke(group, [*call, "-o", str(tmp_path), *more])  # noqa: E731
    done = run()
    assert done.exit_code == 0, done.output
    assert {p.name for p in tmp_path.iterdir()} == {"sft.yaml", "accelerate.yaml"}
    assert isinstance(run().exception, InputError)
    assert run("--force").exit_code == 0
    again = sim.simulate("dgx-h100", (tmp_path / "sft.yaml", tmp_path / "accelerate.yaml"),
                         scaling=False, fixes=False)  # fmt: skip
    assert again.memory.fits


def test_no_tool_is_named_instead_that_would_refuse_the_plan_too():
    for job in ("llama3-8b-lora", "mistral-7b-full"):
        loaded = load("dgx-h100", job, [])
        with pytest.raises(InputError, match="deepspeed cannot run fsdp2") as caught:
            texts_of(loaded.topology, loaded.workload, "deepspeed")
        named = caught.value.faults[0].message.split("emit ")[1].removesuffix(" instead")
        assert named.startswith("accelerate or axolotl or ")
        for tool in named.split(" or "):
            assert texts_of(loaded.topology, loaded.workload, tool)


@pytest.mark.parametrize(
    ("change", "tool"),
    [("optimizer=adamw8bit", "torchtitan"), ("parallelism.strategy=ddp", "axolotl")],
)
def test_a_tool_that_cannot_say_the_plan_is_not_named_instead(change, tool):
    loaded = load("dgx-h100", "llama3-8b-sft", [change])
    for kind in ("deepspeed", tool):
        with pytest.raises(InputError) as caught:
            texts_of(loaded.topology, loaded.workload, kind)
        named = caught.value.faults[0].message.split("; emit ")[1].removesuffix(" instead")
        assert tool not in named.split(" or ")
        for other in named.split(" or "):
            assert texts_of(loaded.topology, loaded.workload, other)


@pytest.mark.parametrize(("tool", "sets", "told"), [
    ("accelerate", ["optimizer_implementation=foreach"], ["optimizer_implementation"]),
    ("trl", ["optimizer_implementation=foreach"], []),
    ("torchtitan", ["optimizer_implementation=foreach"], []),
    ("trl", ["attention_padding=unpad"], ["attention_padding"]),
    ("torchtitan", ["data={document_masks: true, mean_length: 99}"], ["data.document_masks"]),
    ("accelerate", ["data={packing: false, mean_length: 99}"], ["data.packing"]),
    ("trl", ["data={packing: padding-free, mean_length: 99}"], []),
])  # fmt: skip
def test_whatever_moves_a_step_is_said_by_a_file_or_told(tool, sets, told):
    topology, workload = job(*sets)
    always = {row.path for row in lost(texts_of(*job(), tool), job()[1])[1]}
    unsaid = lost(texts_of(topology, workload, tool), workload)[1]
    assert [row.path for row in unsaid if row.path not in always] == told


@pytest.mark.parametrize(("tool", "key", "planned", "read"), [
    ("trl", "loss", "eager", "tiled"),
    ("axolotl", "loss", "eager", "huggingface"),
    ("llamafactory", "modelling", "torchtitan", "huggingface"),
    ("torchtitan", "attention", "flash2", "sdpa"),
])  # fmt: skip
def test_a_default_that_a_tool_has_otherwise_is_told(tool, key, planned, read):
    """Knobs that differ from our defaults alone were; the logits of TRL's loss came and went."""
    topology, workload = job("trainer=torchtitan")
    unsaid = lost(texts_of(topology, workload, tool), workload)[1]
    assert [(row.planned, row.read) for row in unsaid if row.path == key] == [(planned, read)]


DRAWN = {
    "parallelism": [
        "{strategy: fsdp2, reshard_after_forward: false}",
        "{strategy: fsdp2, offload: all}",
        "{strategy: fsdp1, backward_prefetch: post, use_orig_params: false}",
        "{strategy: ddp, bucket_cap_mb: 100}",
        "{strategy: ddp, clip_gradients: false}",
        "{strategy: zero1, overlap_comm: true}",
        "{strategy: zero2, offload: optimizer}",
        "{strategy: zero3, stage3_param_persistence_threshold: 1e5}",
    ],
    "method": [
        "full",
        "{lora: {rank: 8, dropout: 0.1, targets: qv}}",
        "{freeze: {last: 4}}",
        "{lora: {rank: 4, dora: true}}",
        "{qlora: {rank: 32, double_quantization: false}}",
    ],
    "precision": ["bf16", "fp16", "fp32", "{bf16: {master: bf16}}", "{fp32: {tf32: true}}"],
    "optimizer": ["adamw", "adamw-8bit", "adafactor", "sgd", "lion"],
    "activation_checkpointing": ["none", "full", "{kind: full, reentrant: true}"],
    "attention": ["flash2", "sdpa", "eager"],
    "loss": ["eager", "huggingface", "fused-linear"],
    "fused_kernels": ["none", "all"],
    "compile": ["true", "false"],
    "gradient_accumulation": ["1", "4"],
}


@settings(max_examples=8, deadline=None, phases=[Phase.generate])  # a case takes a second
@given(st.fixed_dictionaries({key: st.sampled_from(found) for key, found in DRAWN.items()}))
def test_a_job_that_a_file_says_is_written_and_read_as_it_is(drawn):
    """Whatever a tool's file can say comes back from one that is written of it."""
    try:
        topology, workload = job(*(f"{key}={value}" for key, value in drawn.items()))
    except InputError:
        return
    for tool in ("trl", "llamafactory", "axolotl", "torchtitan"):
        try:
            said = finish(read_back(texts_of(topology, workload, tool), workload)[0])
            same = {key: getattr(workload, key) for key in ("global_batch", "samples", "epochs")}
            said = said.model_copy(update=same)
            again = finish(read_back(texts_of(topology, said, tool), said)[0])
        except InputError:
            continue
        assert again.model_copy(update=same) == said, tool
