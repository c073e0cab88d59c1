"""Jitter, slow GPUs and links, replicas."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from sim import simulate
from sim.commands.run import command
from sim.cost.host import pace_of
from sim.errors import InputError
from sim.fabric import compile_fabric
from sim.inputs.loader import load
from sim.lowering import frames
from sim.report.ranks import waiting as facts
from sim.step.ready import priced_of
from sim.step.run import run_replicas, run_step
from sim.step.slowest import Ranks, expected_largest, lost_to_slowest
from sim.step.straggle import ranks_of, slowed
from sim.step.variation import (
    Variation,
    capacities,
    jittered,
    read_variation,
    speeds,
    usual_spread,
)
from sim.step.waiting import waiting
from sim.strategies.plan import SEGMENT

SMALL = ["gradient_accumulation=1", "model.layers=4"]


def small(machine="dgx-h100", sets=()):
    loaded = load(machine, "llama3-8b-sft", [*SMALL, *sets])
    return loaded.topology, loaded.workload


def ranks_at(outcome, workload, jitter):
    """What `jittered` takes."""
    ranks = ranks_of(outcome.priced, workload, jitter)
    return {p.role: mine for p, mine in zip(outcome.priced.parts, ranks, strict=True)}


def test_each_rank_has_one_pace_with_the_deviation_asked_for():
    topology, workload = small()
    outcome = run_step(topology, workload, engine="python", level="ranks")
    lowered, ranks = outcome.lowered, ranks_at(outcome, workload, 0.05)
    (known,) = {mine.usual * expected_largest(8) for mine in ranks.values()}
    drawn = []
    for replica in range(100):
        work = jittered(lowered, ranks, 0, replica).program.work
        for view in lowered.views:
            ops = np.arange(view.compute.start, view.compute.stop)
            ops = ops[lowered.program.work[ops] > 0]
            paces = work[ops] / lowered.program.work[ops]
            assert np.ptp(paces) < 1e-12
            drawn.append(paces[0] + known)
    assert np.mean(drawn) == pytest.approx(1.0, abs=4 * 0.05 / 800**0.5)
    assert np.std(drawn) == pytest.approx(0.05, rel=4 / 1600**0.5)


@pytest.mark.parametrize("strategy", ["fsdp2", "fsdp1", "zero1", "ddp"])
@pytest.mark.parametrize("nodes", [1, 8])
def test_the_law_and_its_simulation_agree(strategy, nodes):
    """Within 1 %: the mean of steps drawn rank by rank, and the step of equal ranks."""
    loaded = load("dgx-h100", "llama3-8b-sft",
                  [*SMALL, f"nodes={nodes}", f"parallelism={{strategy: {strategy}}}"])  # fmt: skip
    pair = loaded.topology, loaded.workload
    still = run_step(*pair)
    (ranks,) = ranks_of(still.priced, loaded.workload)
    varied = Variation(jitter=ranks.deviation, replicas=12 if nodes > 1 else 40)
    _, times = run_replicas(*pair, varied)
    noise = 3 * times.std() / times.size**0.5
    assert times.mean() == pytest.approx(still.time_s, abs=0.01 * still.time_s + noise)
    law = usual_spread(still.breakdown, ranks.n).step_time_s
    assert law.mean == still.time_s
    assert np.quantile(times, 0.5) == pytest.approx(law.p50, abs=0.01 * still.time_s + noise)


@pytest.mark.parametrize("peaks", [1.0, 2.0])
def test_blocks_wait_so_long_for_a_unit_however_long_they_take_and_nothing_else_does(peaks):
    """Copies in and out of what is sent, the head and the update are as slow as boards differ.

    They took some of the wait too, the more the less blocks take: half the sequence made 8B under
    ZeRO-3 on 4 A100s with slow hosts 1.9 % slower, GEMMs twice as fast 1.0 %.
    """
    loaded = load("dgx-a100", {
        "name": "w", "model": "gpt2-xl", "sequence_length": 256, "gradient_accumulation": 2,
        "steps": 1, "parallelism": "fsdp2",
    }, ["nodes=4", "model.layers=6", "node.cpu.speed=0.5"])  # fmt: skip
    node = loaded.topology.node
    faster = {name: peaks * getattr(node.gpu, name) for name in type(node.gpu).model_fields
              if name.startswith("peak_") and getattr(node.gpu, name)}  # fmt: skip
    gpu = node.gpu.model_copy(update=faster)
    topology = loaded.topology.model_copy(update={"node": node.model_copy(update={"gpu": gpu})})
    outcome = run_step(topology, loaded.workload, engine="python")
    (view,) = outcome.lowered.views
    share, unit_s = lost_to_slowest(gpu, pace_of(node.cpu, node.gpus), 32)
    usual = frames.lowered(priced_of(topology, loaded.workload, Variation(), "folded"))
    kernels = outcome.lowered.kernels(view)
    own_s = usual.alone_s[kernels]
    lost_s = outcome.lowered.alone_s[kernels] - own_s
    ops = [view.plan.ops[i] for i in outcome.lowered.plan_op[kernels].tolist()]
    inside = np.array([op.kind == SEGMENT and 1 <= op.block <= 6 for op in ops])
    compute = np.array([op.stream == "compute" for op in ops])
    assert lost_s[~inside & compute] == pytest.approx(share * own_s[~inside & compute])
    assert lost_s[inside].sum() == pytest.approx(share * own_s[inside].sum() + unit_s * 2 * 6)
    # what kernels lose beside collectives is so many times as long too
    assert 1.0 <= outcome.breakdown.waiting_s / lost_s[compute].sum() < 1.3


@pytest.mark.parametrize("nodes", [3, 4])
def test_quicker_products_leave_waits_to_blocks_alone(nodes):
    """Copies beside them took theirs too, 0.9 % of the step; kernels that are not theirs 0.2 %."""
    loaded = load("dgx-a100", {
        "name": "w", "model": "gpt2-xl", "sequence_length": 512, "gradient_accumulation": 2,
        "steps": 1, "parallelism": "zero3",
    }, [f"nodes={nodes}", "node.cpu.speed=0.5"])  # fmt: skip
    node = loaded.topology.node
    twice = {name: 2.0 * value for name in type(node.gpu).model_fields
             if name.startswith("peak_") and (value := getattr(node.gpu, name))}  # fmt: skip
    node = node.model_copy(update={"gpu": node.gpu.model_copy(update=twice)})
    faster = loaded.topology.model_copy(update={"node": node})
    before, after = (run_step(t, loaded.workload).breakdown for t in (loaded.topology, faster))
    assert after.time_s <= before.time_s
    assert after.kernels["gemm"] < 0.8 * before.kernels["gemm"]


def test_a_kernel_that_is_slowed_asks_as_many_bytes_and_copies_beside_it_are_not():
    topology, workload = small()
    (part,) = priced_of(topology, workload, Variation(), "folded").parts
    ranks = Ranks(64, 0.5, 0.0, 0.5)
    rows, slow = part.rows, slowed(part, ranks, workload.model.layers).rows
    streams = {op.stream for op in part.plan.ops} - {"compute"}
    assert streams
    for op, begin, n in zip(part.plan.ops, part.row_start, part.row_count, strict=True):
        mine = slice(begin, begin + n)
        in_block = op.kind == SEGMENT and 1 <= op.block <= workload.model.layers
        slower = (ranks.of_blocks if in_block else ranks.of_others).slowdown
        factor = np.where(rows.curve[mine] >= 0, slower, 1.0) if op.stream == "compute" else 1.0
        assert slow.alone_s[mine] == pytest.approx(factor * rows.alone_s[mine])
    entry = np.repeat(np.arange(rows.work.size), np.diff(rows.demand_ptr))
    assert slow.demand_amount * slow.work[entry] == pytest.approx(
        rows.demand_amount * rows.work[entry]
    )


def test_jitter_touches_kernels_only_and_moves_alone_with_them():
    topology, workload = small()
    outcome = run_step(topology, workload, engine="python", level="steps")
    lowered = outcome.lowered
    other = jittered(lowered, ranks_at(outcome, workload, 0.05), 3, 0)
    changed = other.program.work != lowered.program.work
    assert changed.any()
    assert (lowered.program.curve[changed] >= 0).all()
    assert other.alone_s[changed] == pytest.approx(other.program.work[changed], rel=1e-12)


def test_equal_seeds_give_equal_times_and_others_do_not():
    pair = small()
    times = [
        run_replicas(*pair, Variation(jitter=0.05, seed=seed, replicas=4), engine="python")[1]
        for seed in (1, 1, 2)
    ]
    assert (times[0] == times[1]).all()
    assert (times[0] != times[2]).all()
    assert len(set(times[0].tolist())) == 4


def test_the_step_shown_is_the_median_one():
    told = []
    outcome, times = run_replicas(
        *small(), Variation(jitter=0.05, replicas=5), engine="python",
        progress=lambda *counts: told.append(counts),
    )  # fmt: skip
    assert told == [(n, 5) for n in range(1, 6)]
    assert outcome.time_s == sorted(times)[2]


def test_no_jitter_is_the_same_bits_as_ever():
    pair = small()
    plain = run_step(*pair, engine="python", level="ranks")
    varied = run_step(*pair, engine="python", level="ranks", variation=Variation(seed=7))
    assert (plain.timeline.end == varied.timeline.end).all()


def test_a_step_with_jitter_waits_for_its_slowest_rank():
    """Beyond what 8 ranks usually differ by, which is in the kernel constants."""
    pair = small()
    still = run_step(*pair, engine="python", level="ranks").time_s
    means = [
        run_replicas(*pair, Variation(jitter=jitter, replicas=6), engine="python")[1].mean()
        for jitter in (0.1, 0.2, 0.4)
    ]
    assert still < means[0] < means[1] < means[2]


def test_levels_ranks_and_steps_agree_under_jitter():
    pair = small(sets=["nodes=2"])
    varied = Variation(jitter=0.05, seed=2)
    ranks = run_step(*pair, engine="python", level="ranks", variation=varied).time_s
    steps = run_step(*pair, engine="python", level="steps", variation=varied).time_s
    assert steps == pytest.approx(ranks, rel=0.01)


def test_a_compute_bound_job_runs_at_the_pace_of_its_slow_gpu():
    pair = small()
    whole = run_step(*pair, engine="python", level="ranks")
    slow = Variation(slow=read_variation("0", ["rank:5=0.8"], 0, 1).slow)
    lame = run_step(*pair, engine="python", level="ranks", variation=slow)
    busy = whole.breakdown.compute_s
    assert lame.time_s == pytest.approx(whole.time_s + busy / 0.8 - busy, rel=0.02)


def test_what_others_lose_to_a_slow_gpu_is_said_idle_or_in_slower_kernels():
    """Collectives that wait for it hold SMs beside the others' kernels: hardly any idles."""
    pair = small(sets=["nodes=2"])
    whole = run_step(*pair, level="ranks").time_s
    slow = Variation(slow=read_variation("0", ["rank:5=0.8"], 0, 1).slow)
    ran = run_step(*pair, level="ranks", variation=slow)
    others, lame = waiting(ran)
    lost = others.waiting_s + others.slowed_for[1]
    assert lost == pytest.approx(ran.time_s - whole, rel=0.15)
    assert others.slowed_for[1] > others.waiting_s > 0.0
    assert others.slowed_for.get(0, 0.0) < 0.01 * lost
    assert sum(lame.slowed_for.values()) < 0.01 * lost
    parts = (others.compute_s, others.waiting_s, others.communication_s, others.idle_s)
    assert sum(parts) == pytest.approx(ran.time_s, rel=1e-9)
    told = simulate("dgx-h100", "llama3-8b-sft", overrides=[*SMALL, "nodes=2"],
                    slow="rank:5=0.8", scaling=False, fixes=False)  # fmt: skip
    (said,) = facts(told)
    assert "ranks 0-4, 6-15 (h100-sxm-80gb) 18.4 % of the step for rank 5" in said.text
    assert "11.4 % in kernels beside collectives that wait" in said.text


@pytest.mark.parametrize("level", ["ranks", "steps"])
def test_a_slow_link_halves_what_is_exposed_on_it(level):
    """One NVLink port at half rate: the first all-gather, all exposed, takes twice its transfer."""
    pair = small()
    whole = run_step(*pair, engine="python", level=level)
    slow = read_variation("0", ["link:n0/gpu2>n0/nvswitch=0.5"], 0, 1)
    lame = run_step(*pair, engine="python", level=level, variation=slow)
    before = whole.breakdown.exposed["first all_gather"]
    after = lame.breakdown.exposed["first all_gather"]
    assert after == pytest.approx(2 * before, rel=0.02)


def test_names_of_slow_parts():
    fabric = compile_fabric(small(sets=["nodes=2"])[0])
    found = read_variation("0", ["rank:3=0.9", "rank:3=0.5", "link:n1/nic0<>leaf0.0=0.25"], 0, 1)
    speed, capacity = speeds(found, fabric), capacities(found, fabric)
    assert speed is not None
    assert speed.tolist() == [1, 1, 1, 0.45] + [1] * 12
    assert capacity is not None
    changed = {fabric.name(int(i)) for i in np.flatnonzero(capacity != fabric.capacity)}
    assert changed == {"n1/nic0>leaf0.0", "leaf0.0>n1/nic0"}
    assert capacities(Variation(), fabric) is None


@pytest.mark.parametrize(
    ("jitter", "slow", "seed", "replicas", "said"),
    [
        ("lots", (), 0, 1, "write 5%"),
        ("-5%", (), 0, 1, "between 0 and 100%"),
        ("nan", (), 0, 1, "between 0 and 100%"),
        ("5%", ("rank3=0.9",), 0, 1, "write rank:3=0.9"),
        ("5%", ("rank:3=fast",), 0, 1, "not a number"),
        ("5%", ("rank:3=0",), 0, 1, "above 0"),
        ("5%", ("rank:3=1.5",), 0, 1, "at most 1"),
        ("5%", (), -1, 1, "negative"),
        ("5%", (), 0, 0, "at least 1"),
        ("0%", (), 0, 8, "--jitter"),
    ],
)
def test_what_makes_no_sense_is_refused(jitter, slow, seed, replicas, said):
    with pytest.raises(InputError, match=said):
        read_variation(jitter, slow, seed, replicas)


@pytest.mark.parametrize("part", ["rank:16=0.9", "rank:x=0.9", "link:n0/gpu77>n0/nvswitch=0.9"])
def test_parts_that_are_not_there_are_refused(part):
    with pytest.raises(InputError, match=r"there are ranks 0 to 7|near are n0/gpu7>n0/nvswitch"):
        run_step(*small(), level="ranks", variation=read_variation("0", [part], 0, 1))


def test_equal_ranks_cannot_be_asked_for_when_they_are_not():
    with pytest.raises(InputError, match="use ranks or steps"):
        simulate("dgx-h100", "llama3-8b-sft", level="folded", jitter="5%")
    assert Variation(jitter=0.1).level(None) == "ranks"
    assert Variation().level(None) == "folded"


def test_the_distribution_is_in_the_document_and_in_the_text():
    args = ["dgx-h100", "llama3-8b-sft", "--no-scaling", "--jitter", "5%", "--replicas", "5"]
    args += [part for text in SMALL for part in ("--set", text)]
    found = json.loads(CliRunner().invoke(command, [*args, "--json"]).output)
    times = found["detail"]["variation"]["step_time_s"]
    assert times["least"] <= times["p10"] < times["p50"] < times["p90"] <= times["most"]
    assert found["step"]["time_s"] == pytest.approx(times["p50"], rel=1e-11)
    text = CliRunner().invoke(command, [*args, "-q"]).output
    assert "with jitter 5.0 %, seed 0, over 5 steps p10 " in text
