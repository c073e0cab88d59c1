"""Verdicts, inverse solutions and fixes."""

import pytest

from sim import memory_of, simulate
from sim.blocks.footprint import head_footprint
from sim.blocks.parameters import tree_of
from sim.inputs.loader import load
from sim.inputs.method import Method
from sim.inputs.shares import mesh_of
from sim.inputs.workload import Checkpointing, CheckpointSave, Parallelism, Stack
from sim.memory.report import memory, walk
from sim.memory.states import constants
from sim.report.memory import view
from tests.clock import least
from tests.unit.fitting_jobs import topology, workload
from tests.unit.sizing import told

LINEARS = ("q", "k", "v", "o", "gate", "up", "down")


@pytest.mark.parametrize("nodes", [1, 8])
def test_closed_form_of_the_root_reduction(nodes):
    """peak = 12 P/W + 4 blocks/W + 2 R + 4 R (short sequence, full checkpointing)."""
    report = memory(topology(nodes), workload())
    ranks = 8 * nodes
    blocks, root = 32 * 218_112_000, 1_050_677_248
    expected = (12 * (blocks + root) + 4 * blocks) / ranks + 6 * root
    assert report.peak_allocated_bytes == pytest.approx(expected, rel=1e-5)
    assert report.peak_moment == "backward"


@pytest.mark.parametrize(("gpus", "kind"), [(8, "no-shard"), (1, "full-shard")])
def test_parameters_that_nobody_shares_are_there_once(gpus, kind):
    """FSDP1's NO_SHARD uses the flat parameter as it is; one rank is NO_SHARD."""
    changes = ["method=full", "precision={bf16: {master: bf16}}", f"node.gpus={gpus}"]
    changes.append(f"parallelism={{strategy: fsdp1, sharding_strategy: {kind}}}")
    found = simulate(
        "a100-x1", "mistral-7b-lora", overrides=changes, scaling=False, fixes=False
    ).memory.by_category
    assert found["sharded parameters"] == pytest.approx(7.2417e9 * 2, rel=1e-3)
    assert "unsharded parameters" not in found


def test_moments():
    report = memory(topology(), workload())
    p = 8_030_261_248
    assert report.by_moment["init"] == 4 * p / 8
    # AdamW counts the steps of 9 x 32 + 3 parameters in fp32; a batch of 2,048 tokens of 8 B
    small = 4 * 291 + 8 * 2048
    assert report.by_moment["save"] == 12 * p / 8 + small
    assert report.by_moment["optimizer"] == 16 * p / 8 + small
    for moment, peak in report.by_moment.items():
        assert sum(report.categories_by_moment[moment].values()) == pytest.approx(peak)


def test_full_checkpoint_gathers_the_largest_unit():
    saved = memory(topology(), workload(checkpoint=CheckpointSave(mode="full")))
    sharded = memory(topology(), workload())
    assert saved.by_moment["save"] - sharded.by_moment["save"] == 4 * 1_050_677_248


def test_full_checkpoint_collected_on_the_gpu():
    """FULL_STATE_DICT without offload_to_cpu: clones of all parameters beside root and a block."""
    save = CheckpointSave(mode="full", offload_to_cpu=False)
    report = memory(topology(), workload("llama-2-7b", checkpoint=save))
    sharded = memory(topology(), workload("llama-2-7b"))
    whole, root, block = 6_738_415_616, 262_148_096, 202_383_360
    more = report.by_moment["save"] - sharded.by_moment["save"]
    assert more == pytest.approx(4 * (whole + root + max(root, block)), rel=1e-4)


def test_reserved_is_more_than_allocated():
    report = memory(topology(), workload())
    extra = sum(report.overheads.values())
    assert report.peak_reserved_bytes == report.peak_allocated_bytes + extra
    assert report.overheads["communicators"] == constants()["communicator"]
    alone = memory(topology(gpus=1), workload("gpt2", 512))
    assert alone.overheads["communicators"] == 0
    assert alone.fits


def test_keeping_parameters_costs_the_layers():
    """reshard_after_forward false: 32 unsharded blocks in bf16 instead of the root alone."""
    keep = Parallelism(reshard_after_forward=False)
    job = {"length": 4096, "activation_checkpointing": Checkpointing()}
    kept = memory(topology(), workload(parallelism=keep, **job)).peak_allocated_bytes
    freed = memory(topology(), workload(**job)).peak_allocated_bytes
    assert kept - freed == 32 * 436_224_000


def test_a_root_that_reshards_is_gathered_again():
    """Between the passes it is gone, as after a reference's; then beside the buffer it came in."""
    root, job = 2 * 1_050_677_248, {"length": 128, "activation_checkpointing": Checkpointing()}
    job["method"] = Method(kind="lora", rank=16, targets=LINEARS)  # no gradient of the root's
    again = Parallelism(root_reshard_after_forward=True)
    kept, freed = (
        [
            memory(topology(), workload(parallelism=p, reference=reference, **job)).by_moment
            for reference in ("none", "copy")
        ]
        for p in (Parallelism(), again)
    )
    assert kept[1]["init"] - freed[1]["init"] == root
    assert kept[0]["init"] == freed[0]["init"]
    assert kept[0]["backward"] < freed[0]["init"] + 2 * root < freed[0]["backward"]


def test_accumulating_without_synchronisation_keeps_fp32_gradients():
    """No sync: unsharded gradients of the whole model in the reduce dtype."""
    last = Parallelism(gradient_sync="last")
    plain = memory(topology(), workload(gradient_accumulation=4))
    held = memory(topology(), workload(gradient_accumulation=4, parallelism=last))
    assert held.by_moment["forward"] - plain.by_moment["forward"] == pytest.approx(
        4 * 8_030_261_248 * (1 - 1 / 8), rel=1e-6
    )


def test_lora_trains_little():
    lora = memory(topology(), workload(method=Method(kind="lora", rank=16, targets=LINEARS)))
    states = lora.by_category["optimizer_states"]
    assert states == pytest.approx(8 * 41_943_040 / 8, rel=1e-4)
    frozen = Method(kind="lora", rank=16, targets=LINEARS, frozen_dtype="fp32")
    wide = memory(topology(), workload(method=frozen))
    assert wide.by_moment["init"] - lora.by_moment["init"] == 2 * 8_030_261_248 / 8


def test_qlora_packs_the_layers():
    """Half a byte a linear weight over the ranks, scales on every rank, the rest in bf16."""
    method = Method(kind="qlora", rank=16, targets=LINEARS, quantization="nf4")
    report = memory(topology(), workload(method=method))
    linear = 32 * (218_112_000 - 8192)
    rest = 8_030_261_248 - linear
    scales = linear * (1 / 64 + 4 / (64 * 256))
    expected = (0.5 * linear + 2 * rest + 4 * 41_943_040) / 8 + scales
    assert report.by_moment["init"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("strategy", "state"),
    [("zero1", 2 + 12 / 8), ("zero2", 2 + 12 / 8), ("zero3", 14 / 8), ("ddp", 4 + 8 + 4)],
)
def test_state_of_replicated_strategies(strategy, state):
    """Bytes a parameter at rest: ZeRO keeps fp32 master and Adam on 1/W, DDP its buckets too."""
    report = memory(topology(), workload(parallelism=Parallelism(strategy=strategy)))
    assert report.by_moment["save"] == pytest.approx(state * 8_030_261_248, rel=1e-5)


def test_offload_moves_state_to_the_host():
    offloaded = memory(topology(), workload(parallelism=Parallelism(offload="all")))
    here = memory(topology(), workload())
    assert offloaded.by_moment["init"] == 0
    assert offloaded.peak_allocated_bytes < here.peak_allocated_bytes
    # pinned in powers of two: 28 MiB of an FFN's matrix take 32, 250.5 of a table 256, and so do
    # gradients
    rounded = 32 * 3 * (32 - 28) * 2**20 + 2 * (256 - 250.5) * 2**20
    bare = 16 * 8_030_261_248 + 8 * 4e9
    assert offloaded.host_bytes == pytest.approx(bare + 8 * 2 * rounded, rel=1e-6)
    assert here.host_bytes == 0


def test_every_model_and_strategy_walks():
    for name in ("gpt2", "mpt-7b", "mixtral-8x7b", "gemma-2-2b", "falcon-7b"):
        for strategy in ("fsdp1", "fsdp2", "zero1", "zero2", "zero3", "ddp"):
            report = memory(
                topology(2), workload(name, 512, parallelism=Parallelism(strategy=strategy))
            )
            assert report.peak_allocated_bytes > 0
            assert min(report.by_category.values()) >= 0
            assert sum(report.by_category.values()) == pytest.approx(report.peak_allocated_bytes)


def test_machines_that_hold_the_same_share_a_walk():
    ours, theirs = (load(name, "llama3-8b-sft") for name in ("dgx-h100", "aws-p5"))
    tree, mesh = tree_of(ours.workload), mesh_of(ours.topology, ours.workload)
    one = walk(ours.workload, tree, mesh)
    assert walk(theirs.workload, tree, mesh_of(theirs.topology, theirs.workload)) is one
    longer = ours.workload.model_copy(update={"sequence_length": 1024})
    assert walk(longer, tree, mesh).peaks["backward"].total < one.peaks["backward"].total


def test_a_walk_is_quick():
    """80 layers, warm caches for the tree alone: a few milliseconds."""
    jobs = iter([workload("llama-3.1-70b", 4096 + 256 * i) for i in range(6)])
    memory(topology(2), next(jobs))
    assert least(lambda: memory(topology(2), next(jobs))) < 0.010


def test_frozen_weights_pile_up_under_reentrant_zero3():
    """14.0 GB of base weights and the embedding on an 8B model, whatever the world size."""
    reentrant = Checkpointing(kind="full", reentrant=True)
    method = Method(kind="lora", rank=16, targets=LINEARS)

    def report(version, nodes=1):
        parallelism = Parallelism(strategy="zero3", deepspeed_version=version)
        job = {"method": method, "activation_checkpointing": reentrant}
        return memory(topology(nodes), workload(parallelism=parallelism, **job))

    new, old = report("0.19.8"), report("0.19.2")
    assert [w.code for w in new.warnings] == ["memory.zero3-frozen-weights-pile-up"]
    assert not old.warnings
    gathered = new.by_category["unsharded_parameters"]
    assert gathered == pytest.approx(14.0e9 + 1.05e9, rel=0.01)
    assert report("0.19.8", 8).by_category["unsharded_parameters"] == gathered
    # layer by layer: while the loss is computed they are not there yet
    assert new.categories_by_moment["forward"]["unsharded_parameters"] < 3.1e9
    assert old.by_category["unsharded_parameters"] < 3.1e9


def test_secondary_shard_of_hpz():
    """ZeRO++ hpZ: 2 bytes a parameter more, over the group."""
    hpz = memory(
        topology(2), workload(parallelism=Parallelism(strategy="zero3", zero_hpz_partition_size=8))
    )
    plain = memory(topology(2), workload(parallelism=Parallelism(strategy="zero3")))
    extra = hpz.by_moment["init"] - plain.by_moment["init"]
    assert extra == pytest.approx(2 * 8_030_261_248 / 8)


def test_flat_parameters_store_frozen_weights_in_fp32():
    """FSDP1 with use_orig_params: one dtype a flat parameter; FSDP2 keeps the base in bf16.

    So does the root, in which no adapter stands.
    """
    method = Method(kind="lora", rank=16, targets=LINEARS)
    base, root = 8_030_261_248 / 8, (2 * 128256 * 4096 + 4096) / 8

    def at_rest(**keys):
        report = memory(topology(), workload(method=method, parallelism=Parallelism(**keys)))
        return report.by_moment["init"] - 4 * 41_943_040 / 8

    assert at_rest(strategy="fsdp2") == pytest.approx(2 * base)
    assert at_rest(strategy="fsdp1") == pytest.approx(4 * (base - root) + 2 * root)
    assert at_rest(strategy="fsdp1", wrap="peft", use_orig_params=False) == pytest.approx(2 * base)


def test_wrapping_linears_gathers_less():
    block = memory(topology(), workload(length=256))
    linear = memory(topology(), workload(length=256, parallelism=Parallelism(wrap="linear")))
    gathered = "all_gather_buffers"
    forward = block.categories_by_moment["forward"][gathered]
    assert linear.categories_by_moment["forward"].get(gathered, 0.0) < forward


@pytest.mark.parametrize("kind", ["ring", "all-gather", "ulysses"])
def test_context_parallel_divides_activations(kind):
    """Half of the sequence on each rank; gathered keys and values are kept whole."""
    split = Parallelism(context_parallel=2, context_parallel_kind=kind)
    no = Checkpointing()
    job = {"length": 32768, "activation_checkpointing": no}
    whole = memory(topology(), workload(**job)).by_category["activations"]
    half = memory(topology(), workload(parallelism=split, **job)).by_category["activations"]
    model = workload(**job).model
    pairs = 2.0 * 2 * model.heads * model.head_dim * 32768 * model.layers  # repeated by SDPA
    kept = whole / 2 + (pairs / 2 if kind == "all-gather" else 0.0)
    assert half == pytest.approx(kept, rel=0.01)


def test_deeper_prefetch_holds_more_buffers():
    deep = Parallelism(forward_prefetch=8, backward_prefetch=8)
    job = {"length": 512}
    plain, more = (
        memory(topology(), workload(parallelism=p, **job)) for p in (Parallelism(), deep)
    )
    assert more.by_moment["forward"] > plain.by_moment["forward"]
    assert more.by_moment["backward"] >= plain.by_moment["backward"]


def test_old_bitsandbytes_keeps_the_inputs_of_frozen_linears():
    """Up to 0.43: 2 (2 d + f) bytes a token and layer that nothing else keeps, of LoRA on q, v."""
    method = Method(kind="qlora", rank=8, targets=("q", "v"), quantization="nf4")
    job = {"method": method, "parallelism": Parallelism(strategy="ddp")}

    def saved(version):
        stack = {"activation_checkpointing": Checkpointing(), **job}
        w = workload("llama-2-7b", 1304, **stack)
        w = w.model_copy(update={"stack": Stack(torch="2.2", bitsandbytes=version)})
        return memory(topology(gpus=1), w).terms["saved activations"]

    assert saved("0.43.1") - saved("0.44.1") == 32 * 1304 * 2 * (2 * 4096 + 11008)


@pytest.mark.parametrize(
    ("transformers", "trainer", "loss", "forward", "backward"),
    [
        ("4.45", "accelerate", "huggingface", 12, 16),
        ("4.46", "accelerate", "huggingface", 14, 14),
        ("4.45", "huggingface", "huggingface", 12, 12),
        ("4.48.1", "huggingface", "huggingface", 14, 12),
        ("4.48.1", "huggingface", "huggingface-fused", 10, 8),
        ("4.49", "huggingface", "huggingface", 10, 12),
        ("4.49", "accelerate", "huggingface", 10, 14),
        ("4.49", "huggingface", "huggingface-fused", 6, 6),
        (None, "huggingface", "huggingface", 10, 12),  # of the time of PyTorch 2.13
    ],
)
def test_logits_of_hugging_face(transformers, trainer, loss, forward, backward):
    """Bytes a vocabulary entry and token; what a kept output holds lives through backward."""
    stack = Stack(torch="2.13", transformers=transformers)
    job = workload(loss=loss, trainer=trainer).model_copy(update={"stack": stack})
    found, entries = head_footprint(job), 2048 * 128256
    assert (found.forward_peak - found.norm) / entries == forward
    assert (found.backward_peak - found.norm) / entries == backward


def test_adapters_wrapped_apart_leave_no_gradient_of_the_base():
    """FSDP1 with wrap: peft, 4-bit base: gradients, states of adapters alone."""
    method = Method(kind="qlora", rank=16, targets=LINEARS, quantization="nf4")
    apart = Parallelism(strategy="fsdp1", wrap="peft")
    report = memory(topology(), workload(method=method, parallelism=apart))
    adapters = 41_943_040
    categories = report.categories_by_moment["optimizer"]
    assert categories["sharded_gradients"] == pytest.approx(4 * adapters / 8, rel=1e-3)
    assert categories["optimizer_states"] == pytest.approx(8 * adapters / 8, rel=1e-3)


def test_zero3_steps_a_sub_group_at_a_time():
    """foreach Adam's temporaries are of sub_group_size elements, not of the whole shard."""
    keys = {"optimizer_implementation": "foreach"}
    whole = Parallelism(strategy="zero3", sub_group_size=10**10)
    small = Parallelism(strategy="zero3", sub_group_size=10**8)
    peaks = [
        memory(topology(), workload(parallelism=p, **keys)).by_moment["optimizer"]
        for p in (whole, small)
    ]
    # the square root and the fp32 gradient, 4 B each
    assert peaks[0] - peaks[1] == pytest.approx(8 * (8_030_261_248 / 8 - 1e8), rel=1e-6)


def test_what_nobody_shards_is_not_called_sharded():
    """DDP, and one GPU: in the document, the table and the chart's legend."""
    for machine, sets in (("a100-x1", ["parallelism=single"]), ("dgx-a100", ["parallelism=ddp"])):
        found = memory_of(machine, "mistral-7b-lora", overrides=sets)
        assert found.report.whole
        assert {"parameters", "gradients"} <= found.report.terms.keys()
        categories = told(view(found)).partition("GiB per GPU")[2].partition("allocated")[0]
        assert "gradients" in categories
        assert "shard" not in categories
    assert not memory_of("dgx-a100", "mistral-7b-lora").report.whole
