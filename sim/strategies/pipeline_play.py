"""Play a pipeline rank's actions on a recorder: what its stages compute, and messages between them.

GPipe and 1F1B run loops of their own, in which a rank waits for what it sends and receives; the
other schedules run their table, receive early and wait for sends at the end of the step. What a
stage does in an action is the strategy's (`Stage`).

Source: torch 2.13, ``distributed/pipelining/{schedules,stage}.py``; recordings in
``tests/data/pipeline_recordings.json``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Protocol

from sim.blocks.from_workload import setting_of
from sim.inputs.pipeline import shape_of
from sim.inputs.workload import Workload
from sim.mesh import Mesh, Pairs
from sim.pipeline.actions import (
    BACKWARD,
    EXCHANGE,
    FORWARD,
    INPUT,
    RECV_B,
    RECV_F,
    REDUCE,
    RESHARD,
    SEND_B,
    SEND_F,
    UNSHARD,
    WAIT,
    WEIGHT,
    Action,
)
from sim.pipeline.schedules import SCHEDULES
from sim.strategies.chunks import Chunks, Copied
from sim.strategies.messages import StageMessage
from sim.strategies.plan import COLLECTIVE
from sim.strategies.recorder import Event, Recorder
from sim.strategies.rounds import Rounds, Use
from sim.strategies.units import dtypes


class Stage(Copied, Protocol):
    """What a strategy does with one stage of a rank."""

    def forward(self) -> None:
        """A micro-batch."""

    def backward(self) -> None:
        """Its backward."""

    def part(self, name: str, first: bool) -> None:
        """Backward for ``input`` or ``weight`` alone; `first`: of the pipeline's first stage."""

    def gather(self) -> None:
        """Parameters, before their first use."""

    def drop(self) -> None:
        """Parameters that were gathered."""

    def reduce_all(self) -> None:
        """Gradients, after the last backward."""


def message_bytes(workload: Workload) -> float:
    """Of an activation between two stages, on one rank. [B]"""
    setting = setting_of(workload)
    return setting.element * setting.stream_tokens * workload.model.hidden_size


def received_bytes(workload: Workload) -> float:
    """Of what a stage receives from another in a step, one way, on one rank. [B]"""
    if workload.parallelism.pipeline_parallel == 1:
        return 0.0
    return workload.gradient_accumulation * message_bytes(workload)


class PipelineRank:
    """A pipeline rank: its stages, and what it sends to others.

    Parameters
    ----------
    workload, mesh
        Of the job.
    rank : int
        Along the pipeline. [1]
    recorder : Recorder
        Where it is written down; its plan's group ``pipeline`` is added.
    stages : mapping of int to Stage
        Its own, by number.
    """

    def __init__(
        self, workload: Workload, mesh: Mesh, rank: int, recorder: Recorder,
        stages: Mapping[int, Stage],
    ) -> None:  # fmt: skip
        self.mesh, self.rank, self.recorder, self.stages = mesh, rank, recorder, stages
        self.schedule = SCHEDULES[workload.parallelism.pipeline_schedule]
        self.late = workload.parallelism.pipeline_defer_receives
        self.shape = shape_of(workload)
        self.rank_of = self.schedule.rank_of(self.shape)
        self.dtype, self.size = dtypes(workload).compute, message_bytes(workload)
        self.arrived: dict[Use, Event] = {}  # receives, until what needs them
        self.sent: list[Event] = []
        self.ways: dict[tuple[int, bool, bool], tuple[str, str, str]] = {}  # that messages take
        self.chunks = Chunks(recorder)
        self.read = (0, self.shape.stages - 1)  # stages that read a batch: its tokens, its labels
        plan = recorder.plan
        plan.stage, plan.stages = rank, mesh.pp
        plan.groups["pipeline"] = mesh.groups("pp")

    def play(self) -> None:
        """All micro-batches of a step."""
        r = self.recorder
        r.start(0)  # the trainer's batch is cut into the pipeline's
        if self.schedule.table:
            actions = self.schedule.executed(self.shape, self.late)[self.rank]
        elif self.schedule.name == "gpipe":
            actions = list(self._gpipe())
        else:
            actions = list(self._one_forward_one_backward())
        again = Rounds(r, self.chunks, self.stages, self.arrived, self.sent, self._do)
        again.play(actions, self.shape.micro)
        self._wait_for_sends()
        r.micro_step = 0

    # what actions do

    def _do(self, action: Action) -> None:
        kind, index, micro, pair = action
        if kind == EXCHANGE:
            self._exchange(pair)
            return
        if kind == WAIT:
            self._wait_for_sends()
            return
        if pair:
            for part in pair:
                self._do(part)
            return
        self.recorder.micro_step = max(0, micro)
        stage = self.stages[index]
        if kind in (SEND_F, SEND_B):
            self.sent.append(self._send([self._message(index, micro, kind == SEND_F)]))
        elif kind in (RECV_F, RECV_B):
            forward = kind == RECV_F
            event = self._send([self._message(index - (1 if forward else -1), micro, forward)])
            self.arrived[forward, index, micro] = event
        elif kind == UNSHARD:
            stage.gather()
        elif kind == RESHARD:
            stage.drop()
        elif kind == REDUCE:
            stage.reduce_all()
        else:
            self._compute(stage, kind, index, micro)

    def _compute(self, stage: Stage, kind: str, index: int, micro: int) -> None:
        if kind == FORWARD and micro and index in self.read:
            self.recorder.await_batch()
        if kind != WEIGHT:
            event = self.arrived.pop((kind == FORWARD, index, micro), ())
            self.recorder.wait("compute", event)
            self.recorder.await_message(event)
        run: Callable[[], None]
        if kind == FORWARD:
            run = stage.forward
        elif kind == BACKWARD:
            run = stage.backward
        else:
            run = partial(stage.part, "input" if kind == INPUT else "weight", first=index == 0)
        self.chunks.play(stage, kind, index, run)

    # messages

    def _message(self, source: int, micro: int, forward: bool) -> StageMessage:
        """A stage's activation for the next one, or its gradient for the one before."""
        return StageMessage(source, source + (1 if forward else -1), micro, forward)

    def _send(self, messages: list[StageMessage]) -> Event:
        """Messages between two ranks, one way or both at once; who receives says the same."""
        r, first, more = self.recorder, messages[0], len(messages) > 1
        way = self.ways.get((first.source, first.forward, more))
        if way is None:
            way = self.ways[first.source, first.forward, more] = self._way(first, more)
        stream, what, group = way
        r.wait_stream(stream, "compute")
        r.issue(
            COLLECTIVE, stream, what, "forward" if first.forward else "backward", -1, "", what,
            group, self.size, self.size, self.dtype,
            " ".join(sorted(map(str, messages))) if more else str(first), 0.0, stream,
        )  # fmt: skip
        return r.record(stream)

    def _way(self, first: StageMessage, more: bool) -> tuple[str, str, str]:
        """Stream, operation and group of a message, or of `more` than one in a batch."""
        a, b = self.rank_of(first.source), self.rank_of(first.target)
        near, far = min(a, b), max(a, b)
        stream = f"p2p {near}-{far}"  # one communicator for every two ranks and both ways
        group, ends, what = f"stage {a} to {b}", (a, b), "send"
        if self.late:
            # the ranks no longer agree on one order: a border's sends are buffered on their own
            stream = f"p2p {first.source}>{first.target}"
        if more:  # a coalesced batch is one kernel of the pipeline's own communicator
            stream, group = f"p2p {near}-{far} coalesced", f"stages {near} and {far}"
            ends, what = (near, far), "send_recv"
        plan = self.recorder.plan
        if group not in plan.groups:
            plan.groups[group] = Pairs(*ends, self.mesh.pp, self.mesh.world // self.mesh.pp)
        return stream, what, group

    def _exchange(self, actions: Iterable[Action]) -> None:
        """Send and receive, and wait for both."""
        messages = []
        for kind, stage, micro, _ in actions:
            forward = kind in (SEND_F, RECV_F)
            source = stage + {RECV_F: -1, RECV_B: 1}.get(kind, 0)
            messages.append(self._message(source, micro, forward))
        event = self._send(messages)
        self.recorder.wait("compute", event)
        if any(self.rank_of(m.target) == self.rank for m in messages):
            self.recorder.await_message(event)

    def _wait_for_sends(self) -> None:
        for event in self.sent:
            self.recorder.wait("compute", event)
        self.sent.clear()

    # the loops of schedules without a table: one stage a rank

    def _gpipe(self) -> Iterator[Action]:
        s, last = self.rank, self.shape.ranks - 1
        for m in range(self.shape.micro):
            if s:
                yield Action(RECV_F, s, m)
            yield Action(FORWARD, s, m)
            if s < last:
                yield Action(SEND_F, s, m)
        yield Action(WAIT, s)
        for m in range(self.shape.micro):
            if s < last:
                yield Action(RECV_B, s, m)
            yield Action(BACKWARD, s, m)
            if s:
                yield Action(SEND_B, s, m)
        yield Action(WAIT, s)
        yield Action(REDUCE, s)

    def _one_forward_one_backward(self) -> Iterator[Action]:
        """A rank waits for what it sends and receives between two computations."""
        s, (p, micro, _) = self.rank, self.shape
        if micro < p - s:  # the pipeline never fills up to here
            yield from self._gpipe()
            return
        warm = p - s
        onward = s < p - 1
        for m in range(warm):
            if s:
                yield Action(RECV_F, s, m)
            yield Action(FORWARD, s, m)
            yield Action(WAIT, s, m)
            if onward and m < warm - 1:
                yield Action(SEND_F, s, m)
        forward, backward = warm, 0
        while True:
            if onward:
                both = Action(SEND_F, s, forward - 1), Action(RECV_B, s, backward)
                yield Action(EXCHANGE, s, -1, both)
            yield Action(BACKWARD, s, backward)
            backward += 1
            if forward == micro:
                break
            if s:
                both = Action(SEND_B, s, backward - 1), Action(RECV_F, s, forward)
                yield Action(EXCHANGE, s, -1, both)
            yield Action(FORWARD, s, forward)
            forward += 1
        if s:
            yield Action(SEND_B, s, backward - 1)
        for m in range(backward, micro):
            yield Action(RECV_B, s, m)
            yield Action(BACKWARD, s, m)
            yield Action(WAIT, s, m)
            if s:
                yield Action(SEND_B, s, m)
        yield Action(WAIT, s)
        yield Action(REDUCE, s)
