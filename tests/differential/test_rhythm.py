"""A pipeline's step of few cycles, the middle one counted again, against the step in full."""

import pytest

from sim.inputs.loader import load
from sim.pipeline.schedules import SCHEDULES, PipelineShape
from sim.step.rhythm import cycle_of, shortened
from sim.step.run import run_step
from sim.step.waiting import waiting

MODEL = {
    "layers": 14, "hidden_size": 1024, "heads": 16, "kv_heads": 16, "head_dim": 64,
    "ffn_size": 4096, "ffn": "swiglu", "norm": "rmsnorm", "positions": "rope",
    "vocab_size": 64000, "name": "small", "fused_qkv": True, "fused_gate_up": True,
}  # fmt: skip
#: 14 layers and both ends are as many on each of four stages
ENDS = {"pipeline_first_stage_less_layers": 1, "pipeline_last_stage_less_layers": 1}
TABLES = ("interleaved-1f1b", "interleaved-zero-bubble", "zbv", "dualpipev")


def job(micro, sequence=2048, **knobs):
    workload = {
        "name": "t", "model": MODEL, "sequence_length": sequence, "micro_batch": 1, "steps": 10,
        "gradient_accumulation": micro, "parallelism": ENDS | knobs,
        "attention": "flash2", "fused_kernels": "none",  # whichever strategy
    }  # fmt: skip
    return load("dgx-h100", workload, ["nodes=2"])[:2]


def measures(breakdown):
    """All that adds up, but for the causes of a slowdown, which are shares by a mean."""
    found = {
        name: getattr(breakdown, name)
        for name in ("time_s", "compute_s", "communication_s", "exposed_s", "copy_s", "host_s",
                     "slowdown_s", "waiting_s", "deviation_s")
    }  # fmt: skip
    for kind in ("kernels", "exposed", "collectives"):
        for name, value in getattr(breakdown, kind).items():
            parts = value if isinstance(value, dict) else {"s": value}
            found |= {(kind, name, key): number for key, number in parts.items()}
    return found


def waits(groups):
    found = {}
    for i, group in enumerate(groups):
        found |= {
            (i, name): getattr(group, name)
            for name in ("compute_s", "waiting_s", "communication_s", "idle_s")
        }
        found |= {(i, "for", late): lost for late, lost in group.waiting_for.items()}
        found |= {(i, "slowed", late): lost for late, lost in group.slowed_for.items()}
    return found


def equal(found, expected, scale):
    for name in found.keys() | expected.keys():
        one, other = found.get(name, 0.0), expected.get(name, 0.0)
        assert one == pytest.approx(other, rel=1e-9, abs=1e-9 * scale), name


@pytest.mark.parametrize(
    ("knobs", "micro"),
    [
        *(({"strategy": "megatron", "pipeline_parallel": 4}, micro) for micro in (29, 64)),
        ({"strategy": "megatron", "pipeline_parallel": 4, "tensor_parallel": 2}, 40),
        *(({"pipeline_parallel": p}, 48) for p in (2, 4)),
        *(({"pipeline_parallel": 2, "pipeline_schedule": name}, 96) for name in TABLES),
        *(({"pipeline_parallel": 4, "pipeline_schedule": name}, 160) for name in TABLES),
        *(
            # long enough that the host does not fall behind for as long as it lasts
            (
                {
                    "pipeline_parallel": 4,
                    "pipeline_schedule": name,
                    "tensor_parallel": 2,
                    "sequence": 8192,
                },
                160,
            )
            for name in TABLES
        ),
    ],
)
def test_what_is_left_out_is_as_if_played(knobs, micro):
    topology, workload = job(micro, **knobs)
    whole = run_step(topology, workload, all_micro_steps=True, engine="compiled")
    short = run_step(topology, workload, engine="compiled")
    assert short.repeats
    equal(measures(short.breakdown), measures(whole.breakdown), whole.time_s)
    equal(waits(waiting(short)), waits(waiting(whole)), whole.time_s)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_an_order_repeats_itself_by_its_cycle(name, ranks):
    """Of each rank: a beginning, cycles that are alike, an end; the same of any number of them."""
    schedule, virtual = SCHEDULES[name], SCHEDULES[name].virtual
    shape = PipelineShape(ranks, 8 * ranks, virtual)
    cycle = schedule.cycle(shape)
    if not cycle:
        return
    longer = shape._replace(micro=shape.micro + 3 * cycle)
    assert schedule.cycle(longer) == cycle
    orders = schedule.executed if schedule.table else schedule.computed
    for rank, order in orders(shape).items():
        more = orders(longer)[rank]
        period, left = divmod(len(more) - len(order), 3)
        assert left == 0
        pairs = enumerate(zip(order, more, strict=False))
        same = next((i for i, (one, other) in pairs if one != other), len(order))
        middle = order[same - period : same]
        for times in range(4):  # those inserted are the last one before, micro-batches later
            moved = [after(action, times * cycle) for action in middle]
            assert more[same - period + times * period :][:period] == moved
        assert [after(a, 3 * cycle) for a in order[same:]] == more[same + 3 * period :]


def after(action, micro):
    later = action.micro + micro if action.micro >= 0 else -1
    return action._replace(micro=later, pair=tuple(after(a, micro) for a in action.pair))


@pytest.mark.parametrize(("name", "micro"), [("interleaved-1f1b", 4 * 49), ("zbv", 200)])
def test_trials_leave_out_whole_cycles(name, micro):
    workload = job(micro, pipeline_parallel=4, pipeline_schedule=name)[1]
    cycle, tried = cycle_of(workload), list(shortened(workload))
    assert len(tried) > 1
    assert all((micro - few.gradient_accumulation) % cycle == 0 for few in tried)
    assert tried[-1] is workload
