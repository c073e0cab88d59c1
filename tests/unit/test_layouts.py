"""Ways to cut a model: what is tried, what bounds it, what lies beside the winner."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sim.errors import InputError
from sim.inputs.loader import load, prepare
from sim.inputs.strategy import strategy_of
from sim.inputs.workload import Parallelism
from sim.memory.report import machine
from sim.report.size import view
from sim.report.size_layouts import because, parts_of
from sim.step.shares import bubble_s, shares
from sim.step.step import memory_of, step
from sim.study.axes import Grid
from sim.study.bounds import Bounds, peak_alike
from sim.study.candidates import (
    CHECKPOINTING,
    OFFLOAD,
    POLICIES,
    Candidate,
    Space,
    frugal_form,
    plans,
    saves_as_much,
    variants,
)
from sim.study.grid import grid_of
from sim.study.layouts import AXES, KEYS, beside, cut_in_words, layouts, least_form
from sim.study.machines import MachineFilter, machines
from sim.study.memory_bounds import MemoryBounds
from sim.study.room import Rooms
from sim.study.search import Counts, Searcher
from sim.study.size import size
from sim.study.target import Target

#: eight layers of the size of Llama-3-8B's
JOB = {
    "name": "eight-layers", "model": {"base": "llama-3-8b", "layers": 8}, "sequence_length": 2048,
    "tokens": "1e8", "parallelism": "fsdp2",
}  # fmt: skip
FOUR = {
    "name": "four-h100s", "nodes": 1,
    "node": {"gpu": "h100-sxm-80gb", "gpus": 4,
             "nvlink": {"generation": 4, "links_per_gpu": 18, "fabric": "nvswitch"},
             "pcie": {"generation": 5}},
    "offer": {"price_per_gpu_hour": "2 USD"},
}  # fmt: skip


def loaded(*sets, topology="dgx-h100", workload="llama3-70b-full"):
    return load(topology, workload, list(sets))


def cuts(gpus_per_node, world, *sets):
    job = loaded(*sets).workload
    return [
        tuple(cut[key] for key in KEYS)
        for cut in layouts(job, strategy_of(job), gpus_per_node, world)
    ]


def test_every_factorisation_is_there_once():
    """4096 tokens are not worth two ranks; 80 layers make 20 stages of 4 but not 64 of 2."""
    found = cuts(8, 64, "nodes=8")
    assert len(set(found)) == len(found)
    assert {f[:2] for f in found} == {
        (t, p) for t in (1, 2, 4, 8) for p in (1, 2, 4, 8, 16, 32, 64) if t * p <= 64
    }
    assert {f[2:4] for f in found} == {(1, 1)}
    assert {f[4:] for f in found if f[1] == 16} == {
        ("1f1b", None), ("interleaved-1f1b", 2), ("interleaved-1f1b", 4),
        ("interleaved-zero-bubble", None), ("zbv", None),
    }  # fmt: skip
    assert {f[4:] for f in found if f[1] == 64} == {("1f1b", None)}
    assert found[0][:4] == (1, 1, 1, 1)


def test_a_bound_of_more_ranks_for_experts_than_a_node_has():
    """Eight layers of Qwen3-30B-A3B, e = 16 on 2 x 8: bounded on a node with e = 8."""
    few = ["model={base: qwen3-30b-a3b, layers: 8}", "nodes=2", "parallelism.expert_parallel=16"]
    found = loaded(*few, "micro_batch=1", "gradient_accumulation=1", "loss=chunked")
    machine = machines(MachineFilter(), ["dgx-h100"])[0][0]
    candidate = Candidate(machine, found.topology, found.workload)
    took = step(found.topology, found.workload).time_s
    assert 0.1 * took < Bounds().of(candidate).step_s < took


def test_long_sequences_and_experts_are_cut_too():
    assert {f[2] for f in cuts(8, 8, "sequence_length=16384")} == {1, 2, 4}
    experts = cuts(8, 8, "model=mixtral-8x7b")
    assert {f[3] for f in experts if f[:3] == (1, 1, 1)} == {1, 2, 4, 8}
    assert {f[3] for f in experts if f[1] == 4} == {1, 2}  # a stage has two ranks


def test_a_strategy_that_cuts_nothing_has_one_layout():
    job = loaded("parallelism=zero3").workload
    found = list(layouts(job, strategy_of(job), 8, 8))
    assert [c["tensor_parallel"] * c["pipeline_parallel"] for c in found] == [1] * len(found)


@pytest.fixture(scope="module")
def searched():
    """Every plan of four GPUs that fits, and the searcher that knows them."""
    machine = machines(MachineFilter(), [FOUR])[0][0]
    base = prepare(machine.topology, JOB)
    space = Space(8, 4, ("fsdp2",), ("none", "full"), ("none",), Grid(""), layouts=True, gpus=4)
    search, rooms = Searcher(), Rooms()
    candidates = list(plans(machine, variants(base, space), space, {}))
    return search, candidates, [search.plan(c) for c in candidates if rooms.room(c) == "fits"]


def test_bounds_bound_every_layout(searched):
    search, _, everything = searched
    assert {p.candidate.workload.parallelism.pipeline_parallel for p in everything} == {1, 2, 4}
    assert {p.candidate.workload.parallelism.tensor_parallel for p in everything} == {1, 2, 4}
    for plan in everything:
        assert search.bounds.peak_s(plan.candidate) <= plan.step_s
        assert search.bounds.of(plan.candidate).step_s <= plan.step_s


def test_what_bounds_share_is_alike(searched):
    """Plans of one key have one bound; what is too large by a smaller micro-batch is by its own."""
    search, candidates, _ = searched
    peaks = {}
    for candidate in candidates:
        peaks.setdefault(peak_alike(candidate), []).append(search.bounds.peak_s(candidate))
    assert 1 < len(peaks) < len(candidates) / 4
    assert all(max(same) == pytest.approx(min(same), rel=1e-12) for same in peaks.values())
    long = [
        replace(c, workload=c.workload.model_copy(update={"sequence_length": 131072}))
        for c in candidates
    ]
    rooms, bounds = Rooms(), MemoryBounds()
    said = [rooms.exceeds(c) for c in long]
    capacity = machine(long[0].topology)[0]
    assert said == [bounds.needed(c.topology, c.workload) > capacity for c in long]
    assert 0 < sum(said) < len(said)


@pytest.mark.parametrize(
    ("cut", "least"),
    [
        ("pipeline_parallel: 4", 0.75),
        ("pipeline_parallel: 2, tensor_parallel: 2", 0.7),
        ("pipeline_parallel: 2, pipeline_schedule: interleaved-1f1b, virtual_stages: 2", 0.7),
        ("pipeline_parallel: 4, pipeline_schedule: zbv", 0.2),
    ],
)
def test_a_pipeline_is_bounded_by_the_rank_with_most_blocks(cut, least):
    job = {**JOB, "model": {"base": "llama-3-8b", "layers": 10}}
    sets = [f"parallelism={{strategy: fsdp2, {cut}}}", "gradient_accumulation=8",
            "activation_checkpointing=full"]  # fmt: skip
    pair, machine = load(FOUR, job, sets), machines(MachineFilter(), [FOUR])[0][0]
    candidate = Candidate(machine, pair.topology, pair.workload)
    bound_s = Bounds().of(candidate).step_s
    assert least <= bound_s / step(pair.topology, pair.workload).time_s <= 1.0


def test_the_frugal_form_of_a_cut_needs_least(searched):
    _, candidates, _ = searched
    for candidate in candidates[::5]:
        frugal = memory_of(candidate.topology, frugal_form(candidate.workload))
        needed = memory_of(candidate.topology, candidate.workload).needed_bytes
        assert frugal.needed_bytes <= 1.03 * needed


@pytest.mark.parametrize("objective", ["cost", "energy"])
def test_the_search_finds_what_trying_everything_finds(searched, objective):
    search, candidates, everything = searched
    target, tally = Target(objective), Counts()
    [best] = search.together([search.best(candidates, target.score, target.met, tally)])
    least = min(target.score(p.figures) for p in everything)
    assert target.score(best.plan.figures) == pytest.approx(least, rel=1e-9)
    assert tally.considered == tally.simulated + tally.too_large + tally.ruled_out
    assert tally.ruled_out > 0


def test_parts_of_a_step_add_up(searched):
    for plan in searched[2]:
        s = plan.shares
        parts = (s.compute_s, s.bubble_s, *s.within_s.values(), s.exchange_s, s.other_s)
        assert sum(parts) == pytest.approx(plan.step_s, rel=1e-9)
        p = plan.candidate.workload.parallelism
        assert (s.bubble_s > 0.0) == (p.pipeline_parallel > 1)
        assert ("tensor" in s.within_s) == (p.tensor_parallel > 1)


def test_the_bubble_of_a_pipeline_is_no_less_than_its_closed_form():
    """(p - 1) / (m + p - 1) of the step; the head of eight layers makes the last stage late."""
    job = load(FOUR, JOB, ["parallelism.pipeline_parallel=4", "gradient_accumulation=4"])
    lost = []
    for micro in (4, 12):
        found = step(job.topology, job.workload.model_copy(update={"gradient_accumulation": micro}))
        lost.append(bubble_s(found.ranks) / found.time_s)
        assert lost[-1] > 0.9 * 3 / (micro + 3)
        assert shares(found.breakdown, found.ranks).bubble_s == bubble_s(found.ranks)
    assert lost[0] > lost[1]


def test_the_plain_pipeline_needs_least_memory():
    job = load(
        FOUR,
        JOB,
        [
            "parallelism={strategy: fsdp2, pipeline_parallel: 2, "
            "pipeline_schedule: interleaved-1f1b}",
            "gradient_accumulation=8",
        ],
    )
    least = least_form(job.workload)
    assert (least.parallelism.pipeline_schedule, least.gradient_accumulation) == ("1f1b", 2)
    plain = load(FOUR, JOB).workload
    assert least_form(plain) is plain


def test_checkpointing_in_the_order_of_what_it_keeps():
    none, ops, full = map(POLICIES.__getitem__, ("none", "selective-op", "full"))
    assert saves_as_much(full, none)
    assert saves_as_much(ops, ops)
    assert not saves_as_much(none, ops)
    every = ops.model_copy(update={"kind": "selective-blocks", "every": 2})
    assert not saves_as_much(every, none)  # half of the blocks: not known to be more or less


def test_beside_is_one_step_along_one_axis():
    def cut(t, p, schedule="1f1b", virtual=None, replicate=1):
        return Parallelism(tensor_parallel=t, pipeline_parallel=p, pipeline_schedule=schedule,
                           virtual_stages=virtual, replicate=replicate)  # fmt: skip

    others = [
        cut(1, 1), cut(1, 2), cut(2, 1), cut(4, 1), cut(8, 1), cut(4, 2), cut(4, 4),
        cut(4, 2, "interleaved-1f1b", 2), cut(4, 1, replicate=8), cut(8, 2),
    ]  # fmt: skip
    found = {(s.axis, s.value): s.members for s in beside(cut(4, 2), others)}
    assert found == {
        ("tensor_parallel", "1"): (1,),
        ("tensor_parallel", "8"): (9,),
        ("pipeline_parallel", "1"): (3,),
        ("pipeline_parallel", "4"): (6,),
        ("schedule", "interleaved 1F1B x2"): (7,),
    }
    assert cut_in_words(cut(4, 2)) == "TP 4, PP 2 (1F1B)"
    assert not cut_in_words(cut(1, 1))


def test_size_says_why_the_winner_beats_its_neighbours():
    report = size(JOB, Target(), topologies=[FOUR], gpus=4, global_batch=8, vary=["layout"])
    assert report.winner.candidate.gpus == 4
    around = {(b.axis, b.value): b for b in report.beside}
    assert around
    for b in report.beside:
        if b.plan is not None:
            assert b.plan.figures.cost_usd >= report.winner.figures.cost_usd
    heading = "The winner's layout, and those beside it"
    [table] = [part for part in view(report).filled if getattr(part, "heading", "") == heading]
    assert "because" in [column.head for column in table.columns]


def test_reasons_hold_among_offers_of_the_catalogue():
    """Each layout beside the winner's costs more, by the parts that the table names."""
    report = size(JOB, Target(), MachineFilter(residency=("EU",), gpu=("h100",)), gpus=16,
                  global_batch=16, vary=["layout"], tuned=False)  # fmt: skip
    winner = report.winner
    assert len([c for c in report.contenders if c.plan]) > 1
    assert {b.axis for b in report.beside} >= {"tensor_parallel", "pipeline_parallel", "replicate"}
    theirs = parts_of(winner.shares)
    for b in report.beside:
        assert b.plan.figures.cost_usd >= winner.figures.cost_usd
        mine = parts_of(b.plan.shares)
        moved = {key: mine.get(key, 0.0) - theirs.get(key, 0.0) for key in mine | theirs}
        more = b.plan.step_s - winner.step_s
        assert sum(moved.values()) == pytest.approx(more, abs=1e-9 * winner.step_s)
        named = {"bubble": "bubble", "tensor": "exposed TP", "compute": "kernels"}
        for key, word in named.items():
            if moved.get(key, 0.0) > 0.02 * winner.step_s:
                assert f"{word} +" in because(b.plan, winner)
    [stages] = [b for b in report.beside if b.axis == "pipeline_parallel"]
    assert because(stages.plan, winner).startswith("bubble +")
    machine, cut = winner.candidate.machine, stages.plan.candidate.workload.parallelism
    space = Space(16, 16, ("fsdp2",), CHECKPOINTING, OFFLOAD, Grid(""), layouts=True, gpus=16)
    every = plans(machine, variants(prepare(machine.topology, JOB), space), space, {})
    alike = [c for c in every if all(getattr(c.workload.parallelism, axis) == getattr(cut, axis)
                                     for axis in AXES)]  # fmt: skip
    assert {c.workload.gradient_accumulation for c in alike} == {1, 2, 4}
    cheapest = min(Searcher().plan(c).figures.cost_usd for c in alike)
    assert stages.plan.figures.cost_usd == pytest.approx(cheapest, rel=1e-12)


def test_a_sequence_may_be_shared_by_more_than_a_node():
    sets = ["parallelism.context_parallel=8", "parallelism.tensor_parallel=2",
            "sequence_length=32768", "nodes=2"]  # fmt: skip
    job = load("dgx-h100", JOB, sets)
    machine = machines(MachineFilter(), ["dgx-h100"])[0][0]
    candidate = Candidate(machine, job.topology, job.workload)
    search = Searcher()
    assert search.bounds.of(candidate).step_s <= search.plan(candidate).step_s


def test_exactly_so_many_gpus():
    report = size(JOB, Target(), topologies=["dgx-h100", FOUR], gpus=16, global_batch=16)
    assert report.winner.candidate.gpus == 16  # the machine of four has no network
    assert [c.machine.name for c in report.contenders if c.plan] == ["dgx-h100"]


def test_sweep_takes_layouts_as_an_axis():
    grid = grid_of([FOUR, JOB], ["layout"], sets=["gradient_accumulation=4"])
    assert grid.keys == tuple(f"parallelism.{key}" for key in KEYS)
    points = [tuple(p.values()) for p in grid.points()]
    assert (1, 1, 1, 1, "1f1b", None) in points
    assert (2, 2, 1, 1, "interleaved-1f1b", 2) in points
    assert not any(t == 8 for t, *_ in points)
    few = grid_of([FOUR, JOB], ["layout"], sets=["gradient_accumulation=2"])
    cuts = [tuple(p.values()) for p in few.points()]
    assert not any(c[1] == 4 and c[4] == "1f1b" for c in cuts)  # takes four micro-batches
    with pytest.raises(InputError, match="one topology and one workload"):
        grid_of([Grid("x", "", JOB)], ["layout", "micro_batch=1,2"])


def test_machines_of_as_many_gpus_a_node_share_the_jobs_of_a_cut():
    """What is found with what is known of another machine is what is found alone."""
    found = []
    for topology in ("dgx-h100", "dgx-a100"):
        (machine,), _ = machines(MachineFilter(), [topology])
        base = prepare(machine.topology, "llama3-8b-sft")
        found.append((machine, base))
    space = Space(64, 16, ("fsdp2",), ("none", "full"), ("none",), Grid(""), layouts=True, gpus=16)
    sound = {}
    shared = [list(plans(m, variants(base, space), space, sound)) for m, base in found]
    assert len(sound) == 1
    for one, (machine, base) in zip(shared, found, strict=True):
        assert len(one) > 100
        assert one == list(plans(machine, variants(base, space), space, {}))
    jobs = [{id(candidate.workload) for candidate in one} for one in shared]
    assert jobs[0] == jobs[1]
