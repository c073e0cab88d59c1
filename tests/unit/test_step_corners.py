"""Corners of a simulated step: what its measures and timelines say where no table looks."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from sim.inputs.loader import load
from sim.inputs.strategy import EACH_BLOCK
from sim.lowering.lowered import Lowered
from sim.lowering.parts import CATEGORIES
from sim.program import Timeline
from sim.step import rhythm, trace_marks
from sim.step.breakdown import Breakdown
from sim.step.chrome_trace import Trace
from sim.step.cycling import few_of
from sim.step.depth import block_paces, of_layers
from sim.step.kept import forget
from sim.step.pressure import with_retries
from sim.step.ready import priced_of
from sim.step.run import run_step
from sim.step.spans import step_timeline
from sim.step.step import memory_of, quick, step
from sim.step.straggle import _in_micro_steps, ranks_of
from sim.step.variation import Variation
from sim.step.waiting import WaitingGroup, _add
from sim.strategies.plan import KERNEL, SEGMENT
from tests.differential.test_rhythm import job as rhythm_job
from tests.unit import test_fsdp_schedules as fsdp


@pytest.fixture(scope="module")
def job():
    return load("dgx-h100", "llama3-8b-sft")


def test_the_host_launches_a_block_before_it_begins(job):
    deep = run_step(job.topology, of_layers(job.workload, EACH_BLOCK.layers), engine="python")
    pace = block_paces(deep.lowered, deep.timeline)
    assert (pace.leads > 0.0).all()
    assert (pace.leads < pace.begins).all()


def test_retries_hold_the_host_up():
    """What they cost is added to the step, and to the host's part of it."""
    sets = ["parallelism={strategy: fsdp1}", "micro_batch=1", "sequence_length=31744"]
    near = load("dgx-a100", "llama3-8b-sft", sets)
    verdict = memory_of(near.topology, near.workload).verdict
    found = with_retries(Breakdown(time_s=60.0, host_s=2.0), near.workload, near.topology, verdict)
    lost = found.time_s - 60.0
    assert lost > 5.0
    assert found.host_s == pytest.approx(2.0 + lost)


def test_equal_ranks_wait_for_nobody(job):
    assert step(job.topology, job.workload).ranks == ()
    staged = load("dgx-h100", "llama3-8b-sft", ["parallelism={pipeline_parallel: 2}"])
    forget()
    assert quick(staged.topology, staged.workload).ranks == ()  # which is not asked who waits
    assert step(staged.topology, staged.workload).ranks


def test_what_micro_steps_run_and_what_the_step_runs_once():
    """Four blocks, three micro-steps: all but the update in each, block and step in the middle.

    Copies in and out of what blocks send, between their kernels, are theirs.
    """
    plan = fsdp.plan_of(layers=4, accumulate=3)
    again, middle, one, units = _in_micro_steps(plan, layers=4, cycle=1)
    for i, op in enumerate(plan.ops):
        copied = op.kind == KERNEL and op.stream == "compute" and op.phase != "clip"
        assert again[i] == (copied or (op.kind == SEGMENT and op.name != "optimizer"))
        assert middle[i] == (again[i] and op.block == 2)
        assert one[i] == (again[i] and op.micro_step == 1)
    assert any(op.name == "optimizer" for op in plan.ops)
    assert {op.name for op in plan.ops if op.kind == KERNEL and op.block == 2} >= {
        "copy_out", "reduce_scatter_copy_in",
    }  # fmt: skip
    assert units == (3 * 4, 4)


def test_units_are_handed_on_where_they_are_gathered():
    """Once a step where they stay gathered; a stage's own layers, in each micro-batch or once."""
    kept = {"reshard_after_forward": False, "reshard_after_backward": False}
    assert units_of(kept) == [14]
    assert units_of({**kept, "reshard_after_backward": True}) == [16 * 14]
    staged = {"pipeline_parallel": 4, "pipeline_schedule": "1f1b"}
    assert units_of(staged) == [3, 4, 4, 3]
    staged |= {"pipeline_reshard_after_forward": True}
    layers = [3, 4, 4, 3]
    for found, own in zip(units_of(staged), layers, strict=True):
        # a stage's last unit stays for the backward that comes next
        assert 16 * (own - 1) <= found <= 16 * own


def units_of(knobs):
    topology, workload = rhythm_job(16, sequence=512, **knobs)
    parts = priced_of(topology, workload, Variation(), "folded").parts
    return [_in_micro_steps(part.plan, 14, 1)[3][0] for part in parts]


@pytest.mark.parametrize("schedule", ["interleaved-1f1b", "interleaved-zero-bubble"])
@pytest.mark.parametrize("sets", [{"pipeline_reshard_after_forward": True}, {"virtual_stages": 4}])
def test_how_ranks_differ_does_not_hang_on_how_many_micro_batches_are_played(schedule, sets):
    knobs = {"pipeline_parallel": 2, "pipeline_schedule": schedule, **sets}
    topology, workload = rhythm_job(90, sequence=512, **knobs)
    priced = priced_of(topology, workload, Variation(), "folded")
    expected = [ranks.slowdown for ranks in ranks_of(priced, workload)]
    shorter = [few_of(workload), *rhythm.shortened(workload)]
    assert len(shorter) > 2
    for few in shorter:
        priced = priced_of(topology, few, Variation(), "folded")
        found = [ranks.slowdown for ranks in ranks_of(priced, few, whole=workload)]
        assert found == pytest.approx(expected, rel=1e-9)


def test_a_step_is_told_from_the_busiest_of_ranks_that_end_together():
    """However long it is played; of ranks as busy, the last to end, and the first of these."""

    def told(busy, ends):
        views = tuple(SimpleNamespace(compute=slice(i, i + 1)) for i in range(len(busy)))
        kernels = np.zeros(len(busy), dtype=np.int8)
        step = Lowered(
            SimpleNamespace(stack=()), kernels, kernels, np.array(busy), views, (), len(busy)
        )
        times = np.array(ends)
        return views.index(step.slowest(Timeline(times - 1.0, times, 0, 0)))

    for last in (1.0, 15.0, 1000.0):
        assert told([1.0, 2.0], [last, last - 11e-9]) == 1
        assert told([1.0, 2.0], [last, last - 1e-5]) == 0
        assert told([1.0, 1.0, 1.0], [last - 1e-9, last, last]) == 1


def test_launches_of_one_phase_are_one_span_of_no_block(job):
    found = step_timeline(job.topology, job.workload, "t")
    host = [span for span in found.spans if span.track == "host" and span.ops > 1]
    compute = [span for span in found.spans if span.track == "compute" and span.ops > 1]
    assert host
    assert {span.unit for span in host} == {""}
    assert any(span.unit for span in compute)
    ends = np.array([span.end_s for span in host])
    assert (np.diff(ends) > 0.0).all()
    told = found.to_dict()
    assert told["capacity_bytes"] == pytest.approx(found.memory.capacity_bytes, rel=1e-11)
    assert len(told["spans"]) == len(found.spans)
    assert "memory" not in told


def test_what_a_rank_waits_is_for_someone():
    """H100s wait for A100s, which wait for nobody; what each does adds up to the step."""
    mixed = load("mixed-h100-a100", "llama3-8b-sft")
    found = step(mixed.topology, mixed.workload)
    fast, slow = found.ranks
    assert (fast.role.gpu.architecture, slow.role.gpu.architecture) == ("hopper", "ampere")
    assert fast.waiting_s == pytest.approx(fast.waiting_for[1])
    assert fast.waiting_s > 1.0
    assert slow.waiting_s == sum(slow.waiting_for.values()) == 0.0
    for group in found.ranks:
        parts = group.compute_s, group.waiting_s, group.communication_s, group.idle_s
        assert sum(parts) == pytest.approx(found.time_s, rel=1e-6)


def test_a_trace_says_how_long_a_collective_waits():
    """On an H100 beside A100s some collectives wait; A100s come last, and wait a tenth of it."""
    mixed = load("mixed-h100-a100", "llama3-8b-sft", ["model.layers=3"])
    outcome = run_step(mixed.topology, mixed.workload)
    longest = []
    for rank in (0, 8):
        told = json.loads(Trace(outcome, mixed.workload, "t", ranks=(rank,)).to_json())
        waits = [
            e["args"]["waits us"] for e in told["traceEvents"] if "waits us" in e.get("args", {})
        ]
        assert waits
        longest.append(max(waits))
    assert longest[0] > 1000.0
    assert longest[1] < longest[0] / 5


def test_a_class_that_nobody_keeps_waiting():
    """Eight seconds: kernels of 2 and 2, data moves in one of the four between them, none waits."""
    lane = SimpleNamespace(alone_s=np.array([2.0, 2.0, 0.0]),
                           category=np.array([0, 0, CATEGORIES.index("collective")]))  # fmt: skip
    timeline = SimpleNamespace(start=np.array([0.0, 3.0, 6.0, 2.0, 2.5]),
                               end=np.array([2.0, 5.0, 7.0, 2.5, 3.5]))  # fmt: skip
    view = SimpleNamespace(compute=slice(0, 3), comm_begin=np.array([3]), comm_end=np.array([4]))
    group = WaitingGroup(None, 1.0, (0, 1))
    _add(group, 0.5, lane, timeline, view, None, (0.0, 8.0))
    assert (group.compute_s, group.waiting_s) == (2.0, 0.0)
    assert (group.communication_s, group.idle_s) == (0.5, 1.5)
    assert group.waiting_for == group.slowed_for == {}


def test_a_stretch_ends_with_the_last_micro_step_that_all_stages_have_begun(monkeypatch):
    """Stages begin every two seconds, the second a second later: at 16 s both are in their last."""
    first, second = np.arange(0.0, 20.0, 2.0), np.arange(1.0, 21.0, 2.0)
    monkeypatch.setattr(rhythm, "entered", lambda lowered, timeline, view: view)
    stages = SimpleNamespace(views=[first, second])
    assert rhythm.stretch_of(stages, None, first, 1, nearly=True) == (14.0, 16.0)
    second[-3] += 0.01  # the second is late once
    assert rhythm.stretch_of(stages, None, first, 1, nearly=True) is None


@pytest.mark.parametrize(
    ("stages", "schedule", "cycle"), [(1, "1f1b", 1), (2, "1f1b", 1), (2, "gpipe", 0)]
)
def test_what_repeats_and_after_how_many_micro_steps(stages, schedule, cycle):
    keys = f"parallelism={{pipeline_parallel: {stages}, pipeline_schedule: {schedule}}}"
    assert rhythm.cycle_of(load("dgx-h100", "llama3-8b-sft", [keys]).workload) == cycle


def test_a_counter_of_memory_is_in_gib(monkeypatch):
    held = SimpleNamespace(time_s=0.25, by_category={"parameters": 3 * 2**29, "gradients": 2**20})
    monkeypatch.setattr(trace_marks, "held_bytes", lambda *_: [held])
    (mark,) = trace_marks._memory(None, None, 7, None)
    assert mark["args"] == {"parameters": 1.5, "gradients": 0.001}
    assert (mark["ts"], mark["pid"]) == (250_000.0, 7)
