"""Steps of a few blocks that repeat to the last op, against steps with every block simulated."""

import dataclasses

import numpy as np
import pytest

from sim.blocks.parameters import tree_of
from sim.inputs.loader import load
from sim.inputs.shares import mesh_of
from sim.inputs.strategy import EACH_BLOCK
from sim.step import measures
from sim.step.blocks_repeat import blocks_repeat
from sim.step.depth import block_paces, of_layers, rhythm_of
from sim.step.measures import AskedOf, simulated
from sim.step.run import StepJob, run_together
from sim.strategies import plan_of

SHARDED = "parallelism={strategy: fsdp1}"
ZERO3 = "parallelism={strategy: zero3}"
ALONE = "node={gpu: a100-pcie-80gb, gpus: 1, pcie: {generation: 4}}"
JOBS = {
    "full": ("dgx-a100", "llama3-8b-sft", [SHARDED, "gradient_accumulation=1"]),
    "micro-steps": ("dgx-a100", "llama3-8b-sft", [SHARDED, "gradient_accumulation=6"]),
    # what comes before the first adapter has no gradients: the first block has less to do
    "lora": (
        "dgx-h100",
        "mistral-7b-lora",
        ["parallelism={strategy: fsdp1, wrap: peft}", "nodes=2"],
    ),
    # the host runs ahead, further with every block
    "free": ("dgx-h100", "llama3-8b-sft", ["gradient_accumulation=5"]),
    "tensors": ("dgx-h100", "llama3-8b-sft", ["parallelism={tensor_parallel: 2}", "nodes=2"]),
    # one GPU reduces nothing in buckets of many blocks
    "alone": ("pcie4-a100-8", "mistral-7b-lora", [ALONE, "nodes=1", "parallelism={strategy: ddp}"]),
    "single": (
        "pcie4-a100-8",
        "llama3-8b-sft",
        [ALONE, "nodes=1", "parallelism={strategy: single}"],
    ),
    # bound by its gathers: they go as far ahead in every block
    "zero3": (
        "dgx-a100",
        "llama3-70b-full",
        [ZERO3, "nodes=8", "sequence_length=512", "gradient_accumulation=4"],
    ),
    # four blocks are too few to find the rhythm of eight
    "late": ("dgx-a100", "mpt-30b-pretrain", [SHARDED, "nodes=4", "micro_batch=2"]),
}
ASKED = AskedOf("auto", causes=True, waits=True)


def figures(breakdown):
    """All measures of a window by name, but by whom kernels are slowed: a mean over the program."""

    def flat(values, *path):
        for key, value in values.items():
            if isinstance(value, dict):
                yield from flat(value, *path, key)
            else:
                yield (*path, key), value

    found = dict(flat(dataclasses.asdict(breakdown)))
    return {path: value for path, value in found.items() if path[0] != "slowdown"}


def whole(jobs, monkeypatch):
    """Measures with every block simulated."""
    with monkeypatch.context() as patch:
        patch.setattr(measures, "rhythm_of", lambda *_job: None)
        return simulated(jobs, ASKED, None)


@pytest.mark.parametrize("name", JOBS)
def test_every_figure_is_that_of_all_blocks(name, monkeypatch):
    loaded = load(*JOBS[name])
    jobs = [(loaded.topology, loaded.workload)]
    depths = []
    run = measures.run_together
    monkeypatch.setattr(
        measures, "run_together",
        lambda parts, *a: run([depths.append(p.workload.model.layers) or p for p in parts], *a),
    )  # fmt: skip
    [quick] = simulated(jobs, ASKED, None)
    found = rhythm_of(*jobs[0])
    assert depths == [found.layers]
    assert (found == EACH_BLOCK) == ("zero3" not in loaded.workload.parallelism.strategy)
    [full] = whole(jobs, monkeypatch)
    pairs = [(quick.whole, full.whole)]
    if full.middle is None:
        assert quick.middle is None
    else:
        pairs.append((quick.middle, full.middle))
    for mine, theirs in pairs:
        least = 1e-9 * theirs.breakdown.time_s
        expected = figures(theirs.breakdown)
        assert figures(mine.breakdown) == pytest.approx(expected, rel=1e-9, abs=least)


def deep(name):
    """A step of a few blocks of one of `JOBS`."""
    loaded = load(*JOBS[name])
    few = of_layers(loaded.workload, EACH_BLOCK.layers)
    [ran] = run_together([StepJob(loaded.topology, few, loaded.workload.model.layers)], "auto")
    return ran


@pytest.mark.parametrize("column", ["start", "end"])
def test_one_op_that_is_off_is_seen(column):
    ran = deep("micro-steps")
    pace = block_paces(ran.lowered, ran.timeline)
    begins = pace.begins
    assert blocks_repeat(ran.lowered, ran.timeline, pace).all()
    period = begins[0, 2, 4] - begins[0, 2, 3]
    lanes = ran.lowered.program.lane
    for lane in np.unique(lanes)[1:]:  # the host may be ahead, by whatever it is
        own = np.flatnonzero(lanes == lane)
        start = ran.timeline.start[0, own]
        inside = own[(start > begins[0, 2, 3]) & (start < begins[0, 2, 4])]
        if not inside.size:
            continue
        times = getattr(ran.timeline, column).copy()
        times[0, inside[0]] += 1e-7 * period
        off = ran.timeline._replace(**{column: times})
        assert not blocks_repeat(ran.lowered, off, pace).any(), ran.lowered.lane_names[lane]


def test_steps_of_a_stack_are_judged_as_each_alone():
    """In which block a lane's ops begin differs from step to step: the host is further ahead."""
    jobs = []
    for size in (128, 512, 1024, 2048, 4096, 8192):
        loaded = load("dgx-a100", "llama3-8b-sft", [SHARDED, f"sequence_length={size}"])
        few = of_layers(loaded.workload, EACH_BLOCK.layers)
        jobs.append(StepJob(loaded.topology, few, loaded.workload.model.layers))

    def judged(jobs):
        found = {}
        for ran in run_together(jobs, "auto"):
            pace = block_paces(ran.lowered, ran.timeline)
            same = blocks_repeat(ran.lowered, ran.timeline, pace).tolist()
            found.update(zip(ran.places, same, strict=True))
        return [found[i] for i in range(len(jobs))]

    together = judged(jobs)
    assert together == [judged([job])[0] for job in jobs]
    assert sum(together) > 3


def test_streams_that_run_ahead_are_not_taken_for_a_rhythm(monkeypatch):
    """Casts without gathers behind them are done before the blocks that are looked at begin."""
    sets = [
        "parallelism={strategy: fsdp1, sharding_strategy: no-shard}", "nodes=2",
        "sequence_length=512", "gradient_accumulation=2", "activation_checkpointing=none",
    ]  # fmt: skip
    loaded = load("dgx-a100", "mpt-30b-pretrain", sets)
    jobs = [(loaded.topology, loaded.workload)]
    [quick], [full] = simulated(jobs, ASKED, None), whole(jobs, monkeypatch)
    assert quick.whole.breakdown.time_s == full.whole.breakdown.time_s


def test_a_host_that_is_ahead_may_not_be_waited_for_later():
    """What is launched later than its turn, once blocks more may have put the host ahead."""
    loaded = load("dgx-h100", "llama3-8b-sft", ["gradient_accumulation=2"])
    few = of_layers(loaded.workload, EACH_BLOCK.layers)
    [ran] = run_together([StepJob(loaded.topology, few, loaded.workload.model.layers)], "auto")
    pace, program = block_paces(ran.lowered, ran.timeline), ran.lowered.program
    assert blocks_repeat(ran.lowered, ran.timeline, pace).all()
    assert (np.diff(pace.leads, axis=2)[0, :, 3] > 0).all()
    of_host = int(np.searchsorted(program.lane, 1))
    by = np.repeat(np.arange(program.lane.size), np.diff(program.succ_ptr))
    last = np.flatnonzero((by < of_host) & (program.succ >= of_host))[-1]  # of the update
    launch, launched = by[last], program.succ[last]
    end = ran.timeline.end.copy()
    end[0, launch] = ran.timeline.start[0, launched]
    late = ran.timeline._replace(end=end)
    assert not blocks_repeat(ran.lowered, late, pace).any()


def test_blocks_of_ddp_are_alike_on_one_gpu_alone(monkeypatch):
    """Not where it reduces in buckets of many blocks."""
    machine, job, sets = JOBS["alone"]
    pair = ALONE.replace("gpus: 1", "gpus: 2")
    one, two = (load(machine, job, [*sets, node]) for node in (ALONE, pair))
    assert rhythm_of(one.topology, one.workload)
    assert not rhythm_of(two.topology, two.workload)
    depths = []
    run = measures.run_together
    monkeypatch.setattr(
        "sim.step.blocks_repeat.blocks_repeat",
        lambda _lowered, _timeline, pace, _rhythm: pace.begins[:, 0, 0] < 0,
    )
    monkeypatch.setattr(
        measures, "run_together",
        lambda parts, *a: run([depths.append(p.workload.model.layers) or p for p in parts], *a),
    )  # fmt: skip
    simulated([(one.topology, one.workload)], ASKED, None)
    assert depths == [EACH_BLOCK.layers, one.workload.model.layers]


def test_models_of_other_depths_do_not_share_a_plan_of_few_blocks():
    """DDP's recordings are shared by meshes alone: what is missing is part of what they are."""
    updates = []
    for layers in (24, 32, 40):
        loaded = load(*JOBS["single"][:2], [*JOBS["single"][2], f"model.layers={layers}"])
        few = of_layers(loaded.workload, EACH_BLOCK.layers)
        tree = tree_of(few, layers - EACH_BLOCK.layers)
        plan = plan_of(few, tree, mesh_of(loaded.topology, loaded.workload))
        whole = plan_of(
            loaded.workload, tree_of(loaded.workload), mesh_of(loaded.topology, loaded.workload)
        )
        assert plan.owned_numel == whole.owned_numel
        assert plan.owned_tensors == whole.owned_tensors
        updates.append(plan.owned_numel)
    assert len(set(updates)) == 3
