"""Plans as launch scripts of Megatron-LM, which read back as the same job."""

import subprocess

import pytest

import sim
from sim.errors import InputError
from sim.interop.trainers.words import MEGATRON_ATTENTION, inverted

MEGATRON = [
    ("llama3-8b-sft", ["tensor_parallel: 2", "pipeline_parallel: 2",
                       "pipeline_schedule: interleaved-1f1b"], ["gradient_accumulation=8"]),
    ("llama3-8b-sft", ["expert_parallel: 8", "context_parallel: 2",
                       "context_parallel_rotation: all-to-all"],
     ["model=mixtral-8x7b", "experts=grouped"]),
    ("llama3-8b-sft", ["expert_parallel: 8"], ["model=mixtral-8x7b"]),
    ("llama3-8b-sft", [], ["model=qwen3-30b-a3b"]),
    ("llama3-8b-sft", [], ["model=qwen3-30b-a3b", "experts=eager"]),
    ("llama3-8b-sft", ["use_distributed_optimizer: false", "overlap_grad_reduce: false"],
     ["model=qwen2.5-7b", "attention=cudnn", "activation_checkpointing=none", "micro_batch=1"]),
]  # fmt: skip


@pytest.mark.parametrize(("workload", "knobs", "sets"), MEGATRON)
def test_megatrons_script_is_the_job_that_it_was_written_from(workload, knobs, sets, tmp_path):
    """Read again it takes as long and as much, the model's shape and all."""
    both = f"parallelism={{{', '.join(['strategy: megatron', *knobs])}}}"
    plan = {"overrides": [both, "nodes=2", *sets]}
    sim.export("dgx-h100", workload, emit=["megatron"], folder=tmp_path, **plan)
    script = tmp_path / "megatron.sh"
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    first = sim.simulate("dgx-h100", workload, scaling=False, fixes=False, **plan)
    again = sim.simulate("dgx-h100", script, nodes=2, scaling=False, fixes=False)
    assert again.step.time_s == pytest.approx(first.step.time_s, rel=1e-9)
    assert again.memory.needed_bytes == pytest.approx(first.memory.needed_bytes, rel=1e-9)
    assert again.job.steps == first.job.steps


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["model=gemma-2-9b"], "megatron cannot say model"),
        (["parallelism={strategy: megatron, context_parallel: 2}"], "rotation: all-to-all"),
        (["optimizer=adamw-8bit"], "it has no adamw-8bit"),
        (["activation_checkpointing=selective"], "every layer or none"),
        (["parallelism=fsdp2"], "megatron cannot run fsdp2"),
        (["model=qwen3-30b-a3b", "experts=sorted"], "in a group or one by one, not sorted"),
        (["data={packing: false, mean_length: 1000}"], "data.packing = False .it would be True"),
    ],
)
def test_what_megatrons_arguments_cannot_say_is_refused(sets, said, tmp_path):
    sets = ["parallelism=megatron", *sets]
    with pytest.raises(InputError, match=said):
        sim.export("dgx-h100", "llama3-8b-sft", emit=["megatron"], folder=tmp_path, overrides=sets)
    assert not list(tmp_path.iterdir())


def test_which_flash_attention_runs_is_told_and_not_said(tmp_path):
    """Two words of ours are one of Megatron-LM's, which reads as the first."""
    kinds = {"auto": "te", "flash": "flash2", "fused": "cudnn", "unfused": "eager"}
    assert inverted(MEGATRON_ATTENTION) == kinds
    sets = ["parallelism=megatron", "attention=flash3", "optimizer_implementation=foreach"]
    done = sim.export(
        "dgx-h100", "llama3-8b-sft", emit=["megatron"], folder=tmp_path, overrides=sets
    )
    unsaid = {row["key"]: row["planned"] for row in done.unsaid}
    assert unsaid == {"attention": "flash3", "optimizer_implementation": "foreach"}
