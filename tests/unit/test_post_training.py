"""Post-training: decoding by its limits, rollouts by hand, steps as the sum of their parts."""

import math

import pytest

import sim
from sim.blocks.parameters import count_parameters
from sim.errors import InfeasibleError, InputError
from sim.inputs.loader import load
from sim.inputs.post_training import Generation
from sim.study.generation import (
    Engine,
    cache_bytes_per_token,
    completions,
    forward_s,
    prefill_s,
    rollout_s,
)

JOB = load("dgx-h100", "qwen2.5-7b-grpo")
MODEL = JOB.workload.model
SMALL = "post_training={prompts: 32, samples: 4, completion: {mean: 400, maximum: 2000}}"


def engine(tensor=1, resident=0.0, **asked):
    return Engine(JOB.topology, JOB.workload, Generation.model_construct(**asked), tensor, resident)


def run(*sets, topology="dgx-h100"):
    return sim.posttrain(topology, "qwen2.5-7b-grpo", overrides=[SMALL, *sets])


@pytest.mark.parametrize("tensor", [1, 2, 4])
@pytest.mark.parametrize(("sequences", "context"), [(1, 1000), (32, 64_000), (256, 500_000)])
def test_decoding_is_never_faster_than_hbm_or_tensor_cores(tensor, sequences, context):
    """Every weight but the embedding's rows is read once, every cached key and value once."""
    one = engine(tensor).step_s(sequences, context)
    gpu = JOB.topology.first_gpu
    counts = count_parameters(MODEL)
    moved = 2 * (counts.total - counts.embedding) / tensor
    moved += context * cache_bytes_per_token(MODEL, tensor)
    assert one > moved / gpu.memory_bandwidth
    assert one > 2 * sequences * (counts.total - counts.embedding) / tensor / gpu.peak_bf16
    assert one < 4 * moved / gpu.memory_bandwidth + 5e-3


def test_a_cached_token_by_hand():
    """28 layers of 4 heads of 128, keys and values, two bytes; parts are of whole heads."""
    assert cache_bytes_per_token(MODEL, 1) == 2 * 28 * 4 * 128 * 2
    assert cache_bytes_per_token(MODEL, 8) == 2 * 28 * 1 * 128 * 2
    latent = load("dgx-h100", "qwen2.5-7b-grpo", ["model=deepseek-v3"]).workload.model
    assert cache_bytes_per_token(latent, 1) == 61 * (512 + 64) * 2


def test_a_cached_token_of_layers_with_heads_of_their_own():
    """Gemma 4 31B: 50 layers with a window, 16 heads of 256; 10 without, 4 of 512."""
    mixed = load("dgx-h100", "qwen2.5-7b-grpo", ["model=gemma-4-31b"]).workload.model
    assert cache_bytes_per_token(mixed, 1) == 2 * 2 * (50 * 16 * 256 + 10 * 4 * 512)
    assert cache_bytes_per_token(mixed, 8) == 2 * 2 * (50 * 2 * 256 + 10 * 1 * 512)


def test_steps_take_longer_with_more_to_do():
    e = engine()
    by_sequences = [e.step_s(b, 100_000) for b in (1, 3, 8, 20, 64, 200)]
    by_context = [e.step_s(16, c) for c in (1_000, 10_000, 100_000)]
    assert by_sequences == sorted(by_sequences)
    assert by_context == sorted(by_context)
    assert e.step_s(24, 0) == pytest.approx((e.step_s(16, 0) + e.step_s(32, 0)) / 2)


def test_rollouts_of_one_length_by_hand():
    """Four of ten tokens at once: steps at contexts of 4 x (100 .. 109); two at a time: twice."""
    e = engine()
    at_once = math.fsum(e.step_s(4, 4 * (100 + n)) for n in range(10))
    assert rollout_s(e, [10] * 4, 100, 4) == pytest.approx(at_once)
    pairs = 2 * math.fsum(e.step_s(2, 2 * (100 + n)) for n in range(10))
    assert rollout_s(e, [10] * 4, 100, 2) == pytest.approx(pairs)


def test_the_longest_ends_alone():
    e = engine()
    both = math.fsum(e.step_s(2, 2 * (50 + n)) for n in range(5))
    alone = math.fsum(e.step_s(1, 50 + n) for n in range(5, 20))
    assert rollout_s(e, [20, 5], 50, 8) == pytest.approx(both + alone)
    assert rollout_s(e, [5, 20], 50, 8) == pytest.approx(both + alone)


def test_a_place_that_comes_free_is_taken():
    """Two places, three sequences: 5 and 10 tokens, then 5 more beside the second half."""
    e = engine()
    first = math.fsum(e.step_s(2, 2 * (50 + n)) for n in range(5))
    second = math.fsum(e.step_s(2, 50 + 55 + 2 * n) for n in range(5))
    assert rollout_s(e, [5, 10, 5], 50, 2) == pytest.approx(first + second)


def test_lengths_have_the_mean_and_the_limit_asked_for():
    drawn = completions(1000.0, 4096, 50_000, 7)
    assert sum(drawn) / len(drawn) == pytest.approx(1000, rel=0.01)
    assert max(drawn) <= 4096
    assert drawn == completions(1000.0, 4096, 50_000, 7) != completions(1000.0, 4096, 50_000, 8)


def test_room_for_the_cache():
    """What training keeps, and the weights, are not there for keys and values."""
    alone, beside = engine(), engine(resident=10e9)
    assert alone.cache_bytes - beside.cache_bytes == pytest.approx(10e9)
    assert alone.weights_bytes == 2 * count_parameters(MODEL).total
    assert engine(2).weights_bytes == alone.weights_bytes / 2
    assert engine(resident=80e9).holds(100) == 0
    assert alone.holds(1e12) == 0
    assert engine(max_sequences=16).holds(100) == 16


def test_a_forward_is_a_third_of_a_step_without_recompute():
    work = JOB.workload
    whole = sim.simulate("dgx-h100", "qwen2.5-7b-grpo", overrides=["activation_checkpointing=none"])
    ratio = forward_s(work, JOB.topology.first_gpu) / whole.step.time_s
    assert 0.2 < ratio < 0.4
    assert prefill_s(engine(), 3, 512) == pytest.approx(3 * prefill_s(engine(), 1, 512))


def test_a_step_is_the_sum_of_its_parts():
    found = run()
    assert found.placement == "colocated"
    assert found.step_s == pytest.approx(math.fsum(p.seconds for p in found.parts), rel=0.02)
    assert found.p10_s <= found.step_s <= found.p90_s
    names = [p.name for p in found.parts]
    assert names == [
        "prefill", "generation", "old log-probabilities", "reference log-probabilities", "update",
        "weights to the engines",
    ]  # fmt: skip


def test_gpus_of_their_own_side_by_side_or_not():
    after = run("post_training.generation.gpus=4")
    beside = run("post_training.generation.gpus=4", "post_training.generation.overlap=true")
    assert (after.placement, after.training_gpus, after.rollout.gpus) == ("split", 4, 4)
    assert beside.step_s < after.step_s
    own = math.fsum(p.seconds for p in beside.parts if p.on == "generation")
    theirs = math.fsum(p.seconds for p in beside.parts if p.on == "training")
    both = math.fsum(p.seconds for p in beside.parts if p.on == "all")
    assert beside.step_s == pytest.approx(max(own, theirs) + both, rel=0.05)


def test_ppo_adds_a_critic_and_dpo_generates_nothing():
    grpo, ppo = run(), run("post_training.algorithm=ppo")
    names = {p.name for p in ppo.parts} - {p.name for p in grpo.parts}
    assert names == {"values", "update of the critic"}
    dpo = run("post_training.algorithm=dpo")
    assert dpo.rollout is None
    assert [p.name for p in dpo.parts] == ["reference log-probabilities", "update"]
    assert dpo.placement == "training only"


def test_training_state_goes_to_the_host_where_it_has_to():
    kept = run("post_training.offload=false")
    moved = run("post_training.offload=true")
    assert kept.offloaded_bytes == 0.0 < moved.offloaded_bytes
    assert kept.rollout.cache_bytes < moved.rollout.cache_bytes
    lane = 2 * moved.offloaded_bytes / 54e9  # PCIe 5 x 16, there and back
    assert next(p.seconds for p in moved.parts if "host" in p.name) == pytest.approx(lane)
    assert moved.rollout.resident_bytes == 0.0


def test_a_frozen_copy_and_a_critic_take_memory():
    """The copy's shard in bf16; the critic's parameters and states as the policy's own."""
    plain, copy = run("post_training.reference=false"), run()
    shard = 2 * count_parameters(MODEL).total / 8
    assert copy.training_bytes - plain.training_bytes == pytest.approx(shard)
    ppo = run("post_training.algorithm=ppo")
    assert ppo.training_bytes - copy.training_bytes == pytest.approx(12 / 2 * shard, rel=0.01)


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (["sequence_length=1024"], "write 2512 or more"),
        (["post_training.completion.mean=3000"], "a mean of 3000 is beyond 2000"),
        (["post_training.generation.gpus=8"], "8 of 8 GPUs leave none to train on"),
        (["nodes=2", "post_training.generation.gpus=4"], "no whole nodes of 8"),
        (["post_training.generation.overlap=true"], "cannot generate and train at once"),
    ],
)
def test_faults(sets, says):
    with pytest.raises(InputError, match=says):
        run(*sets)


def test_a_job_without_rollouts_says_how_to_add_them():
    with pytest.raises(InputError, match="algorithm: grpo"):
        sim.posttrain("dgx-h100", "llama3-8b-sft")


def test_what_does_not_fit_is_said():
    with pytest.raises(InfeasibleError, match="training needs"):
        sim.posttrain("dgx-h100", "qwen2.5-7b-grpo", overrides=["model=llama-3.1-70b"])
    with pytest.raises(InfeasibleError, match="no engine on 1 GPUs"):
        sim.posttrain(
            "dgx-h100", "qwen2.5-7b-grpo",
            overrides=[
                SMALL, "model=qwen2.5-72b", "method={lora: {rank: 16, targets: [q, v]}}",
                "post_training.generation.gpus=1",
            ],
        )  # fmt: skip


def test_more_rollouts_than_any_step_has_are_refused():
    """A billion of them ended as out of memory."""
    sets = ["post_training={algorithm: grpo, prompts: 1000000000, samples: 8}"]
    with pytest.raises(InputError, match="8e\\+09 rollouts are more than any step has"):
        sim.posttrain("dgx-h100", "llama3-8b-sft", overrides=sets)
