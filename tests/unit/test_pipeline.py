"""Pipelines: tables, stages, what is in flight, bubbles and faults."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim import simulate, strategies
from sim.blocks.parameters import tree_of
from sim.errors import InputError
from sim.inputs.loader import load
from sim.inputs.shares import mesh_of
from sim.memory import report
from sim.memory.ledger import live_bytes, read
from sim.memory.report import fullest_ranks, memory
from sim.pipeline.actions import BACKWARD, FORWARD, INPUT, WEIGHT
from sim.pipeline.schedules import SCHEDULES, PipelineShape, in_flight
from sim.pipeline.stages import blocks_of_stages, layers_of_stages
from sim.report.ranks import bubble
from sim.step.run import run_step
from sim.step.step import memory_of, step
from sim.strategies import allocations_of, build_plans
from sim.strategies import terms as t
from sim.strategies.plan import SEGMENT

DATA = Path(__file__).parents[1] / "data" / "pipeline_tables.json"
TABLES = json.loads(DATA.read_text())["recordings"]


@pytest.mark.parametrize("name", TABLES)
def test_tables_equal_the_recording(name):
    """What each rank computes, what the runtime executes, and how much it keeps."""
    found = TABLES[name]
    schedule, shape = SCHEDULES[found["schedule"]], PipelineShape(*found["shape"])
    assert text(schedule.computed(shape)) == found["computed"]
    if found["executed"]:
        assert text(schedule.executed(shape)) == found["executed"]
        late = text(schedule.executed(shape, defer=True))
        rows = "\n".join(f"{rank} {row}" for rank, row in sorted(late.items()))
        assert hashlib.sha256(rows.encode()).hexdigest()[:16] == found["deferred"]
    assert most_kept(schedule, shape) == found["in_flight"]


def text(orders):
    return {str(rank): " ".join(map(str, order)) for rank, order in orders.items()}


def most_kept(schedule, shape):
    found = {}
    for rank in range(shape.ranks):
        kept, most = {}, 0
        for stage, count in in_flight(shape, schedule, rank):
            kept[stage] = count
            most = max(most, sum(kept.values()))
        found[str(rank)] = most
    return found


@given(st.sampled_from(sorted(SCHEDULES)), st.integers(2, 6), st.integers(1, 4), st.integers(2, 4))
@settings(max_examples=40)
def test_every_micro_batch_runs_once_through_every_stage(name, ranks, rounds, virtual):
    """And no rank waits for itself: the runtime can place all of it."""
    schedule = SCHEDULES[name]
    shape = PipelineShape(
        ranks, 2 * ranks * rounds, virtual if schedule.several else schedule.virtual
    )
    done = Counter()
    for order in schedule.computed(shape).values():
        for action in order:
            for part in action.parts:
                done[part.kind, part.stage, part.micro] += 1
    assert set(done.values()) == {1}
    for stage in range(shape.stages):
        for micro in range(shape.micro):
            assert done[FORWARD, stage, micro]
            whole = done[BACKWARD, stage, micro]
            assert whole != (done[INPUT, stage, micro] and done[WEIGHT, stage, micro])
    if schedule.table:
        executed = schedule.executed(shape)
        sent = Counter(a.kind for order in executed.values() for a in order)
        assert sent["SEND_F"] == sent["RECV_F"]
        assert sent["SEND_B"] == sent["RECV_B"]


@pytest.mark.parametrize(
    ("layers", "stages", "expected"),
    [
        (8, 4, (2, 3, 2, 1)),  # recorded: [emb, 0, 1], [2, 3, 4], [5, 6], [7, norm, head]
        (4, 2, (2, 2)), (80, 8, (10, 11, 10, 10, 10, 10, 10, 9)), (32, 4, (8, 9, 8, 7)),
    ],
)  # fmt: skip
def test_stages(layers, stages, expected):
    assert layers_of_stages(layers, stages, 1, 1) == expected
    blocks = blocks_of_stages(layers_of_stages(layers, stages, 1, 1))
    assert [b for own in blocks for b in own] == list(range(layers + 2))


def job(*sets, pipeline=4, micro=8, layers=16):
    return load(
        "dgx-h100", "llama3-8b-sft",
        ["nodes=1", f"parallelism.pipeline_parallel={pipeline}", f"gradient_accumulation={micro}",
         f"model.layers={layers}", "micro_batch=1", "activation_checkpointing=none", *sets],
    )  # fmt: skip


def plans_of(loaded):
    workload = loaded.workload
    return build_plans(workload, tree_of(workload), mesh_of(loaded.topology, workload))


def test_each_block_runs_on_one_rank():
    plans = plans_of(job())
    runs = Counter()
    for plan in plans:
        runs.update((op.block, op.name) for op in plan.ops if op.kind == SEGMENT and op.block >= 0)
    assert runs == {(b, n): 8 for b in range(18) for n in ("forward", "backward")}


@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
def test_the_bubble_is_that_of_the_textbook(name):
    """(p - 1) / M of the ideal step, if stages are alike and messages short."""
    pace = {}
    for micro in (8, 32):
        loaded = job(
            f"parallelism.pipeline_schedule={name}", "parallelism.clip_gradients=false",
            "parallelism.pipeline_first_stage_less_layers=0", "model.vocab_size=1024",
            "parallelism.pipeline_last_stage_less_layers=0", micro=micro,
        )  # fmt: skip
        pace[micro] = run_step(loaded.topology, loaded.workload).time_s
    each = (pace[32] - pace[8]) / 24  # of one micro-batch in the steady state
    fill = pace[8] - 8 * each
    assert fill == pytest.approx(3 * each, rel=0.2)


def test_interleaving_halves_the_bubble_and_zero_bubble_beats_it():
    times = {}
    for name in ("1f1b", "interleaved-1f1b", "interleaved-zero-bubble"):
        loaded = job(f"parallelism.pipeline_schedule={name}", "model.vocab_size=1024")
        times[name] = run_step(loaded.topology, loaded.workload).time_s
    assert times["interleaved-1f1b"] < 0.95 * times["1f1b"]
    assert times["interleaved-zero-bubble"] < times["interleaved-1f1b"]


def test_split_backward_with_checkpointing_is_slower():
    """Nine recomputes for the weights of a block of nine parameters, one for its inputs."""
    zero = job(
        "parallelism.pipeline_schedule=interleaved-zero-bubble", "activation_checkpointing=full"
    )
    assert "split-recompute" in {w.code for w in zero.notes.warnings}
    (plan, *_) = plans_of(zero)
    again = Counter(op.block for op in plan.ops if op.kind == SEGMENT and op.name == "recompute")
    assert again[1] == 8  # the first stage's weight gradients are a whole backward
    middle = max(again)
    assert again[middle] == 8 * (9 + 1)
    plain = job("parallelism.pipeline_schedule=interleaved-1f1b", "activation_checkpointing=full")
    assert step(zero.topology, zero.workload).time_s > 2 * step(*plain[:2]).time_s


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_what_is_kept_is_freed(name):
    loaded = job(f"parallelism.pipeline_schedule={name}")
    workload = loaded.workload
    mesh, tree = mesh_of(loaded.topology, workload), tree_of(workload)
    for plan in plans_of(loaded):
        _, live = live_bytes(plan, workload, tree)
        for term in (t.SAVED, t.LOGITS, t.UNSHARDED, t.FULL_GRADIENTS, t.SCATTERS):
            assert live[term, -1] == pytest.approx(0.0, abs=1.0)
            assert live[term].min() >= -1.0
    # states of all ranks together are those of the model
    states = sum(
        read(allocations_of(workload, tree, mesh, rank), workload, tree)
        .peaks["forward"].terms["optimizer states"]
        for rank in range(4)
    )  # fmt: skip
    whole = job(pipeline=1).workload
    expected = memory_of(loaded.topology, whole).terms["optimizer states"]
    assert states * 2 == pytest.approx(expected * 8, rel=1e-3)


def test_more_in_flight_needs_more_memory():
    """GPipe keeps every micro-batch, 1F1B as many as there are stages."""
    kept = {}
    for name in ("gpipe", "1f1b"):
        for micro in (8, 16):
            loaded = job(f"parallelism.pipeline_schedule={name}", micro=micro)
            kept[name, micro] = memory_of(loaded.topology, loaded.workload).peak_allocated_bytes
    assert kept["gpipe", 16] > 1.2 * kept["gpipe", 8]
    assert kept["1f1b", 16] == pytest.approx(kept["1f1b", 8], rel=0.05)


@pytest.mark.parametrize("name", sorted(n for n, s in SCHEDULES.items() if s.table))
def test_late_receives_wait_for_nobody_who_waits(name):
    """Sender and receiver agree on the turn of a border's messages, so that the step ends."""
    times = {}
    for late in ("false", "true"):
        loaded = job(
            f"parallelism.pipeline_schedule={name}", f"parallelism.pipeline_defer_receives={late}"
        )
        times[late] = run_step(loaded.topology, loaded.workload).time_s
    assert times["false"] * 0.98 < times["true"] < 1.2 * times["false"]


def test_parameters_gathered_for_every_micro_batch():
    """Less is whole at a time, and what is gathered is dropped again."""
    whole = job("model.layers=32", pipeline=2)
    again = job("model.layers=32", "parallelism.pipeline_reshard_after_forward=true", pipeline=2)
    for plan in plans_of(again):
        _, live = live_bytes(plan, again.workload, tree_of(again.workload))
        assert live[t.UNSHARDED, -1] == pytest.approx(0.0, abs=1.0)
    gathers = [
        sum(op.collective == "all_gather" for op in plans_of(loaded)[0].ops)
        for loaded in (whole, again)
    ]
    assert gathers[1] > 8 * gathers[0] * 0.9
    assert memory_of(*again[:2]).peak_allocated_bytes < memory_of(*whole[:2]).peak_allocated_bytes


def _peaks(found):
    """Peak of every rank, and the ranks that are asked. [B]"""
    workload, mesh = found.workload, mesh_of(found.topology, found.workload)
    tree = tree_of(workload)
    ledgers = [
        read(allocations_of(workload, tree, mesh, rank), workload, tree) for rank in range(mesh.pp)
    ]
    peaks = [ledger.peaks[ledger.highest].total for ledger in ledgers]
    return peaks, fullest_ranks(workload, tree)


@pytest.mark.parametrize("virtual", [1, 2])
def test_the_fullest_rank_is_one_of_few(virtual):
    """Thirty layers on four ranks: stages of 8, 8, 8, 6, so only the third is like one before."""
    schedule = "1f1b" if virtual == 1 else "interleaved-1f1b"
    peaks, few = _peaks(job(f"parallelism.pipeline_schedule={schedule}", layers=30))
    assert len(few) < len(peaks)
    assert max(peaks[rank] for rank in few) == max(peaks)


@pytest.mark.parametrize(
    ("schedule", "micro"), [("zbv", 3), ("zbv", 8), ("zbv", 24), ("dualpipev", 16)]
)
@pytest.mark.parametrize("layers", [30, 46])
def test_the_fullest_rank_along_a_v_is_at_an_end_of_equal_ones(schedule, micro, layers):
    """The last of them where micro-batches are too few to fill the pipeline."""
    peaks, few = _peaks(
        job(f"parallelism.pipeline_schedule={schedule}", pipeline=8, micro=micro, layers=layers)
    )
    assert len(few) < len(peaks)
    assert max(peaks[rank] for rank in few) == max(peaks)


@pytest.mark.parametrize("engine", ["python", "compiled"])
def test_levels_agree(engine):
    loaded = job(layers=8)
    folded = run_step(loaded.topology, loaded.workload, engine=engine)
    ranks = run_step(loaded.topology, loaded.workload, engine=engine, level="ranks")
    assert ranks.time_s == pytest.approx(folded.time_s, rel=1e-9)


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["gradient_accumulation=3"], "1F1B on 4 ranks needs 4 micro-batches or more"),
        (
            ["parallelism.pipeline_schedule=interleaved-1f1b", "gradient_accumulation=10"],
            None,
        ),
        (
            ["parallelism.pipeline_schedule=interleaved-1f1b", "gradient_accumulation=11"],
            "11 micro-batches make no whole rounds of 5",
        ),
        (["parallelism.pipeline_schedule=dualpipev", "gradient_accumulation=7"], "needs 8"),
        (["parallelism.pipeline_schedule=zbv", "parallelism.virtual_stages=4"], "2 stages a rank"),
        (["parallelism.virtual_stages=2"], "1F1B has 1 stages a rank"),
        (["model.layers=1"], "1 layers of"),
        (["parallelism.strategy=zero3"], "pipelines are modelled with fsdp2"),
        (["parallelism.offload=all"], "offloading is not modelled in a pipeline"),
        (["parallelism.pipeline_parallel=3"], "3 does not divide 8 GPUs"),
        (["method=lora"], "modelled for full training"),
        (["parallelism.pipeline_defer_receives=true"], "1F1B runs a loop of its own"),
        (["model=gemma-2b"], "ties embedding and head"),
    ],
)
def test_faults(sets, said):
    if said is None:
        job(*sets)
        return
    with pytest.raises(InputError, match=said):
        job(*sets)


def test_the_report_says_what_is_lost_to_other_stages():
    """The mean of what ranks wait; the last stage of an even pipeline waits for the first."""
    found = simulate(*job()[:2])
    assert [group.stage for group in found.ranks] == [0, 1, 2, 3]
    (fact,) = bubble(found)
    lost = sum(g.waiting_s * g.count for g in found.ranks) / 8 / found.step.time_s
    assert 0.05 < lost < 0.5
    assert fact.text.startswith(f"{100 * lost:.1f} %")
    assert bubble(simulate(*job(pipeline=1)[:2])) == []


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize("pipeline", [2, 4])
def test_memory_of_many_micro_batches_is_that_of_all(name, pipeline, monkeypatch):
    """Few are written down: of full pipelines some rounds, of those that fill what one adds."""
    loaded = job(f"parallelism.pipeline_schedule={name}", pipeline=pipeline, micro=32 * pipeline)
    workload = loaded.workload
    short = memory(*loaded[:2])
    monkeypatch.setattr(strategies, "micro_steps_apart", lambda w: w.gradient_accumulation)
    monkeypatch.setattr(report, "FILLS", 10**6)
    whole = memory(*loaded[:2])
    assert short.needed_bytes == pytest.approx(whole.needed_bytes, rel=1e-12)
    assert short.peak_reserved_bytes == pytest.approx(whole.peak_reserved_bytes, rel=1e-12)
    for moment, size in whole.by_moment.items():
        assert short.by_moment[moment] == pytest.approx(size, rel=1e-12)
    assert short.terms == pytest.approx(whole.terms, rel=1e-12)
    monkeypatch.undo()
    log = allocations_of(workload, tree_of(workload), mesh_of(loaded.topology, workload))
    if SCHEDULES[name].cycle(PipelineShape(pipeline, 32 * pipeline, 2)):
        many = workload.model_copy(update={"gradient_accumulation": 4096 * pipeline})
        more = allocations_of(many, tree_of(many), mesh_of(loaded.topology, many))
        assert len(more.log) == len(log.log)


def test_received_messages_are_as_long_as_the_sequences():
    """Logs are shared by jobs of other lengths: what is received is measured for each."""
    sizes = [
        memory_of(*job(f"sequence_length={length}")[:2]).terms["buffers of pipeline messages"]
        for length in (2048, 4096)
    ]
    assert sizes == [pytest.approx(8 * length * 4096 * 2) for length in (2048, 4096)]
