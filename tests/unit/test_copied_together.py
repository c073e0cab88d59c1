"""Two configurations copied together: what of both cannot be, or does nothing, is said."""

import pytest

from sim.errors import InputError
from sim.inputs.loader import load

FSDP2, ZERO1 = "strategy: fsdp2", "strategy: zero1"


@pytest.mark.parametrize(
    ("machine", "sets", "code"),
    [
        ("dgx-a100", ["precision=fp8"], "no-fp8"),
        ("dgx-a100", ["attention=flash3"], "flash3"),
        ("dgx-h100", ["attention=flash3", "stack.torch=1.13"], "too-old"),
        ("dgx-h100", ["compile=true", "stack.torch=1.13"], "too-old"),
        ("dgx-h100", ["parallelism=fsdp2", "stack.torch=2.1"], "too-old"),
        ("dgx-h100", ["stack.nccl=2.10", "stack.nccl_path=symmetric"], "too-old"),
        ("dgx-h100", ["stack.nccl=2.21", "stack.nccl_path=copy-engine"], "too-old"),
        ("dgx-h100", ["parallelism.expert_parallel=2"], "indivisible"),
        ("dgx-h100", ["optimizer=adamw-8bit", "optimizer_paged=true", "parallelism.offload=all"],
         "paged"),
        ("dgx-h100", ["optimizer=sgd", "optimizer_paged=true"], "paged"),
        ("dgx-h100", ["data.document_masks=true", "data.packing=false"], "lengths"),
        ("dgx-h100", ["parallelism={strategy: ddp, offload: all}"], "offload"),
        ("dgx-h100", ["parallelism={strategy: ddp, replicate: 2}"], "no such knob"),
        ("dgx-h100", ["parallelism={strategy: single}"], "one-gpu"),
        ("dgx-h100", ["global_batch=64", "micro_batch=5"], "cannot be divided"),
        ("dgx-h100", [f"parallelism={{{ZERO1}, tensor_parallel: 16}}"], "tensor parallelism is"),
        ("dgx-h100", [f"parallelism={{{FSDP2}, pipeline_parallel: 3}}"], "does not divide 8 GPUs"),
        ("dgx-h100", [f"parallelism={{{FSDP2}, tensor_parallel: 3}}"], "cannot be divided among"),
        ("dgx-h100", [f"parallelism={{{FSDP2}, context_parallel: 16}}"], "does not divide 8 GPUs"),
        ("dgx-h100", [f"parallelism={{{FSDP2}, context_parallel: 2}}", "attention=eager"],
         "a ring passes"),
        ("dgx-h100", [f"parallelism={{{FSDP2}, pipeline_parallel: 8}}", "gradient_accumulation=2"],
         "needs 8 micro-batches"),
        ("dgx-h100", ["node.nvlink.fabric=pairs"], "sharp needs an NVSwitch"),
        ("dgx-h100", ["node.gpu=a100-sxm-80gb"], "has NVLink 3"),
        ("dgx-h100", ["node.gpu=l40s-pcie-48gb"], "no-nvlink"),
        ("dgx-h100", ["model.heads=7"], "model-heads"),
        ("dgx-h100", ["model.kv_heads=5"], "model-heads"),
        ("dgx-h100", ["model.experts=8"], "model-experts"),
        ("dgx-h100", ["steps=10", "tokens=1e9"], "job-length-twice"),
        ("dgx-h100", ["steps=10", "samples=100"], "job-length-twice"),
        ("dgx-h100", ["method={lora: {rank: 8, targets: []}}"], "names no layer"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(machine, sets, code):
    with pytest.raises(InputError, match=code):
        load(machine, "llama3-8b-sft", sets)


@pytest.mark.parametrize(
    ("sets", "code"),
    [
        (["precision=fp8", "method={qlora: {rank: 8, targets: [q]}}"], "qlora-fp8"),
        (["parallelism.expert_dispatch=deepep"], "experts-alone"),
        (["epochs=2", "tokens=1e9"], "epochs"),
        (["sequence_length=1000000"], "positions"),
        (["model.max_positions=128"], "positions"),
        (["data={packing: false, mean_length: 100000}"], "cut"),
        (["parallelism={strategy: megatron, tensor_parallel: 2}", "trainer=huggingface"],
         "trainer-strategy"),
        (["parallelism=fsdp2", "trainer=deepspeed"], "trainer-strategy"),
        (["parallelism={strategy: fsdp2, offload: optimizer}"], "offload"),
        (["compile=true", "modelling=megatron"], "trainer-modelling"),
        (["parallelism=ddp", "modelling=megatron", "trainer=huggingface"], "trainer-modelling"),
        (["node.pcie.generation=3"], "nic-slot"),
        (["trainer=megatron", "optimizer=adafactor"], "trainer-words"),
        (["trainer=huggingface", "attention=cudnn"], "trainer-words"),
        (["loss=chunked", "loss_chunks=1"], "no-effect"),
        (["loss=fused", "loss_chunks=8"], "no-effect"),
        (["activation_checkpointing={full: {every: 3}}"], "no-effect"),
        (["method={lora: {rank: 8, double_quantization: true}}"], "no-effect"),
        (["node.nics.kind=tcp", "node.nics.gpudirect=true"], "no-effect"),
        (["reliability={spare_nodes: 2, failures: false}"], "no-failures"),
        (["reliability={gpu_mtbf: 1000 h, failures: false}"], "no-failures"),
        (["reliability.spare_nodes=100"], "spares"),
        (["offer={region: eu-north, residency: US}"], "residency"),
    ],
)  # fmt: skip
def test_what_is_odd_is_warned_of(sets, code):
    before = {w.code for w in load("dgx-h100", "llama3-8b-sft").notes.warnings}
    assert code not in before
    assert code in {w.code for w in load("dgx-h100", "llama3-8b-sft", sets).notes.warnings}


@pytest.mark.parametrize(
    "sets",
    [
        ["node.nics.kind=tcp"],
        ["loss=chunked", "loss_chunks=8"],
        ["reliability.spare_nodes=1"],
        ["reliability={failures: false}"],
        ["reliability={failures: false, restart: 5 min}", "offer={capacity: spot}"],
        ["offer={region: eu-north, residency: EU}"],
        ["offer={region: us-east-1, residency: EU, provider: unheard-of}"],
        ["trainer=megatron", "optimizer=sgd"],
        ["optimizer=adafactor"],
    ],
)
def test_what_goes_together_is_not(sets):
    found = {w.code for w in load("dgx-h100", "llama3-8b-sft", sets).notes.warnings}
    assert not found & {"no-effect", "no-failures", "spares", "residency", "trainer-words"}


def test_the_length_that_is_set_is_taken_for_the_files():
    job = load("dgx-h100", "llama3-8b-sft", ["steps=10"]).workload
    assert (job.steps, job.tokens, job.samples) == (10, None, None)


QLORA = ["parallelism=single", "trainer=huggingface", "method={qlora: {rank: 8}}"]


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (QLORA, True),
        ([*QLORA, "parallelism=ddp"], True),
        ([*QLORA, "method.prepare_kbit=false"], False),
        ([*QLORA, "method.prepare_kbit=true"], False),
        ([*QLORA, "method.adapters=fused"], False),
        ([*QLORA, "parallelism=fsdp1"], False),  # TRL leaves it out there
        ([*QLORA, "method={lora: {rank: 8}}"], False),
        ([*QLORA, "trainer=torchtune"], False),
    ],
)
def test_four_bits_under_peft_are_asked_whether_they_are_prepared(sets, told):
    """Unsaid, a script that calls it was given contexts 24 to 71 % longer than fit."""
    machine = "dgx-h100" if sets[-1].startswith("parallelism=") else "h100-x1"
    notes = load(machine, "llama3-8b-sft", sets).notes
    assert ("kbit-unsaid" in {w.code for w in notes.warnings}) is told
