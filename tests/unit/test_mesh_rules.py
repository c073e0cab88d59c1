"""Collectives of combined axes against closed forms that share no code with ours.

The recordings have some combinations; here count and bytes of every collective and message follow
from shapes alone, for others drawn at random: tensor, context and expert parallelism under FSDP2
and HSDP, with and without pipelines, sequence and loss parallelism, checkpointing, uneven stages.
"""

import itertools
import math
import random
from collections import Counter
from typing import NamedTuple

import pytest

from sim.blocks.parameters import tree_of
from sim.inputs.model import Model
from sim.inputs.shares import mesh_on
from sim.inputs.workload import Checkpointing, Parallelism, Workload
from sim.pipeline.schedules import SCHEDULES, PipelineShape
from sim.strategies import build_plan, build_plans
from sim.strategies.plan import COLLECTIVE

D, H, K, FFN, VOCAB, T = 64, 8, 4, 192, 512, 128
EXPERTS, TOP, EXPERT_FFN = 8, 2, 48
LATENT, TURNED, VALUE = 32, 8, 16  # of latent attention
BASE = {"hidden_size": D, "heads": H, "kv_heads": K, "ffn_size": FFN, "vocab_size": VOCAB}
ROUTED = {"experts": EXPERTS, "experts_per_token": TOP, "expert_ffn_size": EXPERT_FFN}
MODELS = {
    "llama": BASE | {"head_dim": 8},
    "qwen": BASE | ROUTED | {"head_dim": 16, "qk_norm": True},
    "latent": BASE | ROUTED | {
        "kv_heads": H, "head_dim": 24, "rope_head_dim": TURNED, "v_head_dim": VALUE,
        "kv_lora_rank": LATENT, "q_lora_rank": 0, "shared_experts": 1, "dense_layers": 1,
    },
}  # fmt: skip
STAGES = {
    "1f1b": 1, "gpipe": 1, "interleaved-1f1b": 2, "looped-bfs": 2, "interleaved-zero-bubble": 2,
    "zbv": 2, "dualpipev": 2,
}  # fmt: skip
SPLIT = ("interleaved-zero-bubble", "zbv", "dualpipev")


class Case(NamedTuple):
    """A job on a mesh."""

    family: str
    t: int
    c: int
    e: int
    shard: int
    replicate: int
    checkpointing: str
    sequence: bool
    loss: bool
    layers: int = 3
    micros: int = 2
    p: int = 1
    schedule: str = "1f1b"

    @property
    def ranks(self):
        """Of a stage."""
        return self.shard * self.replicate * self.c * self.t

    def plans(self, **knobs):
        """What each rank of a pipeline, or the one, issues."""
        knobs |= {"context_parallel_kind": "all-gather"} if self.c > 1 else {}
        if self.p > 1:
            knobs |= {"pipeline_parallel": self.p, "pipeline_schedule": self.schedule}
        workload = Workload(
            name="rules", model=Model(name="m", layers=self.layers, **MODELS[self.family]),
            sequence_length=T * self.c, micro_batch=1, gradient_accumulation=self.micros,
            loss="eager",
            parallelism=Parallelism(
                wrap="torchtitan", tensor_parallel=self.t, context_parallel=self.c,
                expert_parallel=self.e, replicate=self.replicate, clip_gradients=False,
                sequence_parallel=self.sequence, loss_parallel=self.loss, **knobs,
            ),
            activation_checkpointing=Checkpointing(kind=self.checkpointing, early_stop=False),
        )  # fmt: skip
        mesh, tree = mesh_on(workload, self.ranks * self.p), tree_of(workload)
        if self.p > 1:
            return build_plans(workload, tree, mesh)
        return [build_plan(workload, tree, mesh)]


class Layer(NamedTuple):
    """What stands in a layer of a family."""

    routed: bool
    shared: bool
    parameters: int  # tensors
    rows: list  # (rows, columns) of a tensor-parallel rank's tensors; FSDP cuts rows
    kv: list  # bytes of keys and of values, a token


def layer(case, number):
    """Of a number."""
    t, shared = case.t, case.family == "latent"
    routed = case.family == "qwen" or (shared and number > 0)
    if shared:
        attention = [
            (H * 24 // t, D), (LATENT + TURNED, D), (LATENT, 1),
            (H * (24 - TURNED + VALUE) // t, LATENT), (D, H * VALUE // t),
        ]  # fmt: skip
        kv = [2 * H * 24 // t, 2 * H * VALUE // t]
    else:
        width = MODELS[case.family]["head_dim"]
        attention = [(H * width // t, D), *[(K * width // t, D)] * 2, (D, H * width // t)]
        attention += [(width, 1)] * 2 if case.family == "qwen" else []
        kv = [2 * K * width // t] * 2
    rows, parameters = [*attention, (D, 1), (D, 1)], len(attention) + 2
    if not routed:
        return Layer(False, False, parameters + 3, rows + _gated(FFN // t), kv)
    rows, parameters = [*rows, (EXPERTS, D)], parameters + 4
    if case.e == 1:
        rows += [(EXPERTS, D * EXPERT_FFN // t)] * 3
    if shared:
        rows, parameters = rows + _gated(EXPERT_FFN // t), parameters + 3
    return Layer(True, shared, parameters, rows, kv)


def _gated(width):
    return [(width, D), (width, D), (D, width)]


def split(layers, n):
    """Layers of n stages: embedding and head count as one each."""
    units, start, found = layers + 2, 0, []
    for s in range(n):
        held = units // n + (s < units % n) - (s == 0) - (s == n - 1)
        found.append(range(start, start + held))
        start += held
    return found


def expected(case, rank):
    """Times and bytes of each collective of a rank: {(op, group, dtype): (count, in, out)}."""
    t, c, e, micros, act = case.t, case.c, case.e, case.micros, T * D * 2
    ranks, local = case.shard * c, STAGES[case.schedule] if case.p > 1 else 1
    n = case.p * local
    folded = case.schedule in ("zbv", "dualpipev")
    of = [(s if s < case.p else n - 1 - s) if folded else s % case.p for s in range(n)]
    found: Counter = Counter()

    def add(op, group, dtype, times, sent, received):
        found[op, group, dtype, "count"] += times
        found[op, group, dtype, "in"] += times * sent
        found[op, group, dtype, "out"] += times * received

    def exchange(numbers, times, again=False):
        """Of layers in forward, and with `again` what a recompute repeats of it."""
        whole = not again or case.checkpointing == "full"
        for about in (layer(case, number) for number in numbers):
            apart = about.routed and e > 1
            gathers = 1 if apart and not about.shared else 2
            scatters = 2 + (about.routed and about.shared) if not apart else 1 + about.shared
            if t > 1 and case.sequence:
                add("all_gather", "tensor", "bf16", times * gathers, act // t, act)
                add("reduce_scatter", "tensor", "bf16", times * scatters * whole, act, act // t)
            elif t > 1:
                add("all_reduce", "tensor", "bf16", times * 2, act, act)
            if apart and whole:
                routed = T // t * TOP * D * 2
                add("all_to_all", "expert", "bf16", times * 2, routed, routed)
                add("all_to_all", "expert", "i64", times, 8 * EXPERTS, 8 * EXPERTS)
            for size in about.kv if c > 1 else ():
                add("all_gather", "context", "bf16", times, T * size, c * T * size)

    def returned(numbers):
        """Of layers in backward."""
        for about in (layer(case, number) for number in numbers):
            apart = about.routed and e > 1
            gathers = 2 + (about.routed and about.shared) if not apart else 1 + about.shared
            scatters = 1 if apart and not about.shared else 2
            if t > 1 and case.sequence:
                add("all_gather", "tensor", "bf16", micros * gathers, act // t, act)
                add("reduce_scatter", "tensor", "bf16", micros * scatters, act, act // t)
                if about.routed and not apart:  # weights of the experts chosen
                    add("reduce_scatter", "tensor", "bf16", micros, T * TOP * 2, T * TOP * 2 // t)
            elif t > 1:
                add("all_reduce", "tensor", "bf16", micros * 2, act, act)
            if apart:
                routed = T // t * TOP * D * 2
                add("all_to_all", "expert", "bf16", micros * 2, routed, routed)
            for size in about.kv if c > 1 else ():
                add("reduce_scatter", "context", "bf16", micros, c * T * size, T * size)

    for s in (s for s in range(n) if of[s] == rank):
        numbers, first, last = split(case.layers, n)[s], s == 0, s == n - 1
        exchange(numbers, micros)
        returned(numbers)
        if case.checkpointing != "none":
            for number in numbers:
                # gradients of weights apart repeat the block for each of its parameters
                apart = case.p > 1 and case.schedule in SPLIT and not first
                times = 1 + layer(case, number).parameters * apart
                exchange([number], micros * times, again=True)
        ends = micros * (first + last)  # table and head, there and back
        if t > 1 and case.sequence:
            add("all_gather", "tensor", "bf16", ends, act // t, act)
            add("reduce_scatter", "tensor", "bf16", ends, act, act // t)
        elif t > 1:
            add("all_reduce", "tensor", "bf16", ends, act, act)
        if t > 1 and last and case.loss:
            add("all_reduce", "tensor", "fp32", 3 * micros, 4 * T, 4 * T)
        elif t > 1 and last:
            add("all_gather", "tensor", "bf16", micros, 2 * T * VOCAB // t, 2 * T * VOCAB)
        # FSDP: once a step with a pipeline, once a micro-batch and pass without
        table = [(VOCAB // t, D)]
        units = [table] * first + [layer(case, i).rows for i in numbers]
        units += [[*table, (D, 1)]] * last
        passes, steps = (1, 1) if case.p > 1 else (2 * micros, micros)
        for at, rows in enumerate(units):
            numel = sum(math.ceil(a / ranks) * ranks * b for a, b in rows)
            kept = case.p == 1 and at == len(units) - 1  # the root's last stays for backward
            _shard(add, case, "shard", ranks, numel, passes - micros * kept, steps)
        for number in numbers if e > 1 else ():
            if layer(case, number).routed:
                numel, ranks_of = 3 * D * EXPERT_FFN * EXPERTS // e, case.shard * c * t // e
                _shard(add, case, "expert-shard", ranks_of, numel, passes, steps)
        if case.p > 1:
            held = act // t if case.sequence else act
            ways = (not last and of[s + 1] != rank) + (not first and of[s - 1] != rank)
            found["messages"] += 2 * micros * ways
            found["message bytes"] += 2 * micros * ways * held
    return +found


def _shard(add, case, group, ranks, numel, gathers, reductions):
    if ranks > 1:
        add("all_gather", group, "bf16", gathers, 2 * numel // ranks, 2 * numel)
        add("reduce_scatter", group, "fp32", reductions, 4 * numel, 4 * numel // ranks)
    if case.replicate > 1:
        add("all_reduce", "replicate", "fp32", reductions, 4 * numel // ranks, 4 * numel // ranks)


def issued(plan):
    """The same of a plan; sums of norms over tensor-parallel ranks are left out."""
    found: Counter = Counter()
    for op in plan.ops:
        if op.kind != COLLECTIVE:
            continue
        if op.collective in ("send", "send_recv"):
            ways = 2 if op.collective == "send_recv" else 1
            found["messages"] += ways
            found["message bytes"] += ways * round(op.bytes_in)
        elif (op.collective, op.group, op.phase) != ("all_reduce", "tensor", "backward") or (
            op.bytes_in == T * D * 2  # activations
        ):
            key = op.collective, op.group, op.dtype
            for what, size in (("count", 1), ("in", op.bytes_in), ("out", op.bytes_out)):
                found[(*key, what)] += round(size)
    return +found


def drawn(pipelines, times):
    """Cases that the real code runs, a few at random."""
    ways = itertools.product(
        MODELS, (1, 2, 4), (1, 2), (1, 2, 4), (1, 2, 4), (1, 2), ("none", "full", "selective-op"),
        (True, False), (True, False),
    )  # fmt: skip
    able = [
        case
        for case in itertools.starmap(Case, ways)
        if (case.e == 1 or case.family != "llama") and case.shard * case.c * case.t % case.e == 0
        # experts have no run without sequence parallelism; without tensor parallelism neither acts
        and (case.sequence or (case.family == "llama" and case.t > 1))
        and (case.loss or case.t > 1) and case.ranks > 1
    ]  # fmt: skip
    rng = random.Random(13)
    found = rng.sample(able, times)
    if pipelines:
        found = [
            case._replace(
                p=p, schedule=schedule, layers=layers, micros=8,
                # it splits some backwards only
                checkpointing="none" if schedule == "dualpipev" else case.checkpointing,
            )
            for case, schedule, p, layers in zip(
                found, itertools.cycle(STAGES), itertools.cycle((2, 2, 4)),
                itertools.cycle((6, 9, 13, 8)), strict=False,
            )
        ]  # fmt: skip
    return found


@pytest.mark.parametrize("case", drawn(False, 60) + drawn(True, 42), ids=str)
def test_collectives_follow_from_shapes(case):
    for plan in case.plans():
        assert issued(plan) == expected(case, plan.stage if case.p > 1 else 0)


@pytest.mark.parametrize("schedule", STAGES)
def test_gathers_where_pipelines_reshard_after_forward(schedule):
    """Layers are gathered by what does not follow a backward: they are kept behind one.

    Gradients of weights apart gather nothing. Ranks without the first and the last stage, by the
    order that the schedule runs.
    """
    shape = PipelineShape(4, 8, STAGES[schedule])
    layers = split(14, shape.stages)
    case = Case("llama", 1, 1, 1, 2, 1, "none", True, True, 14, 8, 4, schedule)
    for plan in case.plans(pipeline_reshard_after_forward=True):
        gathers, behind = 0, {}  # whether the last of a stage was its forward, or nothing
        for action in SCHEDULES[schedule].computed(shape)[plan.stage]:
            for part in (part for part in action.parts if part.kind != "W"):
                gathers += len(layers[part.stage]) * behind.get(part.stage, True)
                behind[part.stage] = part.kind == "F"
        if not {0, shape.stages - 1} & set(behind):
            found = issued(plan)
            assert found["all_gather", "shard", "bf16", "count"] == gathers


@pytest.mark.parametrize(
    ("p", "sequence", "checkpointing", "sharded", "style", "tied"),
    [
        (1, True, "none", True, "megatron", False), (1, False, "none", True, "megatron", False),
        (1, True, "full", False, "megatron", False), (1, True, "none", True, "nanotron", False),
        (1, False, "full", False, "megatron", True), (2, True, "none", True, "megatron", True),
        (2, False, "none", False, "megatron", True), (4, True, "full", True, "nanotron", False),
    ],
)  # fmt: skip
def test_collectives_of_megatron_follow_from_shapes(
    p, sequence, checkpointing, sharded, style, tied
):
    """Inputs are gathered again in backward, norms summed once a step, and so is a tied table."""
    t, data, layers, micros, act = 2, 2, 6, 4, T * D * 2
    workload = Workload(
        name="rules",
        model=Model(name="m", layers=layers, tied_embeddings=tied, **MODELS["llama"]),
        sequence_length=T, micro_batch=1, gradient_accumulation=micros, loss="eager",
        parallelism=Parallelism(
            strategy="megatron", tensor_parallel=t, tensor_parallel_style=style,
            pipeline_parallel=p, sequence_parallel=sequence, clip_gradients=False,
            use_distributed_optimizer=sharded, pipeline_first_stage_less_layers=1,
            pipeline_last_stage_less_layers=1,  # as `split` has it
        ),
        activation_checkpointing=Checkpointing(kind=checkpointing),
    )  # fmt: skip
    mesh, tree = mesh_on(workload, t * data * p), tree_of(workload)
    plans = build_plans(workload, tree, mesh) if p > 1 else [build_plan(workload, tree, mesh)]
    for plan in plans:
        rank = plan.stage if p > 1 else 0
        held, first, last = len(split(layers, p)[rank]), rank == 0, rank == p - 1
        again, found = checkpointing == "full", Counter()

        def add(op, group, dtype, times, sent, received, found=found):
            for what, size in (("count", 1), ("in", sent), ("out", received)):
                found[op, group, dtype, what] += times * size

        if sequence:
            inputs, outputs = 2 * held + last, 2 * held + first
            gathers = inputs * (2 if style == "megatron" else 1) + outputs + 2 * held * again
            # a recompute ends where its last saved tensor is, before its last sum
            scatters = inputs + outputs + held * again
            add("all_gather", "tensor", "bf16", micros * gathers, act // t, act)
            add("reduce_scatter", "tensor", "bf16", micros * scatters, act, act // t)
        else:
            sums = 4 * held + first + last + held * again
            add("all_reduce", "tensor", "bf16", micros * sums, act, act)
        if last:
            add("all_reduce", "tensor", "fp32", 3 * micros, 4 * T, 4 * T)
        table = VOCAB * D // t
        case = Case("llama", t, 1, 1, data, 1, checkpointing, sequence, True)
        numel = held * sum(a * b for a, b in layer(case, 0).rows)
        numel += table * first + (table * (not tied or p > 1) + D) * last
        if sharded:
            add("reduce_scatter", "shard", "fp32", 1, 4 * numel, 4 * numel // data)
            add("all_gather", "shard", "bf16", 1, 2 * numel // data, 2 * numel)
        else:
            add("all_reduce", "data", "fp32", 1, 4 * numel, 4 * numel)
        if tied and p > 1 and (first or last):
            add("all_reduce", "embedding", "fp32", 1, 4 * table, 4 * table)
        theirs = {key: n for key, n in issued(plan).items() if not isinstance(key, str)}
        assert theirs == dict(found)
        norms = [op for op in plan.ops if op.kind == COLLECTIVE and op.bytes_in == 4.0 * D * (
            2 * held + last
        )]  # fmt: skip
        assert len(norms) == sequence
