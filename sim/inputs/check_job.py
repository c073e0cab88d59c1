"""Checks of what is around a job's steps: its length, checkpoints, evaluation and trainer."""

from __future__ import annotations

from sim.data import table
from sim.inputs.fields import either
from sim.inputs.finding import Findings, fault, warning
from sim.inputs.modelling import modelling_of
from sim.inputs.trainer import trainer_named, trainer_of
from sim.inputs.workload import Workload


def findings(workload: Workload) -> Findings:
    """Every finding about it."""
    yield from _length(workload)
    yield from _checkpoints(workload)
    yield from _evaluation(workload)
    yield from _trainer(workload)
    yield from _words(workload)
    yield from _modelling(workload)


def _length(w: Workload) -> Findings:
    given = [k for k in ("tokens", "steps", "samples") if getattr(w, k) is not None]
    if len(given) > 1:
        message = f"{' and '.join(given)} both say how long the job is"
        yield fault("job-length-twice", "workload", given[-1], message, "keep one")
    if not given:
        message = "nothing says how long the job is"
        hint = "add tokens: 1e9, or steps, or samples of an epoch, for wall-clock and cost"
        if w.epochs != 1.0:
            message += f": {w.epochs:g} epochs of how many samples?"
            hint = "add samples=52000, or as many as there are, for wall-clock and cost"
        if w.deadline is not None:
            message += ", nor whether it meets its deadline"
        yield warning("no-job-length", "workload", "", message, hint)
    elif w.epochs != 1.0 and w.samples is None:
        message = f"{w.epochs:g} epochs count for nothing beside {given[0]}"
        yield warning("epochs", "workload", "epochs", message, "say samples, or leave epochs out")


def _checkpoints(w: Workload) -> Findings:
    if w.checkpoint.interval == 0.0:
        message = "a checkpoint every 0 seconds leaves no time to train"
        yield fault(
            "no-interval", "workload", "checkpoint.interval", message, 'write "checkpoint: none"'
        )
    save = w.checkpoint
    if save.memory_interval == 0.0:
        message = "a copy every 0 seconds leaves no time to train"
        path = "checkpoint.memory_interval"
        yield fault("no-interval", "workload", path, message, "write 1 min, or leave it out")
    if save.peers and save.memory_interval is None:
        message = f"{save.peers} peers hold copies, and none are made"
        hint = "add checkpoint.memory_interval: 1 min"
        yield fault("no-copies", "workload", "checkpoint.peers", message, hint)


def _evaluation(w: Workload) -> Findings:
    every, tokens = w.evaluation.every, w.evaluation.tokens
    if tokens and not every:
        message = f"an evaluation of {tokens:,.0f} tokens, and none is made"
        hint = "add evaluation.every: 500, in steps"
        yield warning("no-evaluation", "workload", "evaluation.tokens", message, hint)
    if every and not tokens:
        message = f"an evaluation every {every} steps of no tokens takes no time"
        hint = "add evaluation.tokens: 1e6, over all ranks"
        yield warning("no-evaluation", "workload", "evaluation.every", message, hint)


def _trainer(w: Workload) -> Findings:
    """A strategy that is not among those of the trainer named; of one's own it is not known."""
    if w.trainer is None:
        return
    trainer, strategy = trainer_named(w.trainer), w.parallelism.strategy
    known = {name for row in table("trainers").values() for name in row.get("strategies", ())}
    if trainer.strategies and strategy in known and strategy not in trainer.strategies:
        message = f"{trainer.title} runs {either(trainer.strategies)}, not {strategy}"
        hint = f"leave it out, or write strategy: {trainer.strategies[0]}"
        yield warning("trainer-strategy", "workload", "trainer", message, hint)


def _words(w: Workload) -> Findings:
    """An optimizer, attention or checkpointing that the trainer named cannot be told to take."""
    if w.trainer is None:
        return
    trainer = trainer_named(w.trainer)
    both = (("optimizer", w.optimizer, trainer.optimizers),
            ("attention", w.attention, trainer.attentions),
            ("activation_checkpointing", w.activation_checkpointing.kind, trainer.checkpointings),
            )  # fmt: skip
    for key, value, known in both:
        if known and value not in known:
            message = f"{trainer.title} has {either(known)}, not {value}"
            hint = f"write {key}: {known[0]}, or leave trainer out"
            yield warning("trainer-words", "workload", key, message, hint)


def _modelling(w: Workload) -> Findings:
    """Layers of a code base in another's loop; one's own loop is not known."""
    trainer = trainer_of(w)
    if w.modelling and modelling_of(w).own_loop and trainer.works and trainer.name != w.modelling:
        own = trainer_named(w.modelling).title
        message = f"layers of {own} run in {own} alone; the loop is that of {trainer.title}"
        hint = f"write trainer: {w.modelling}, or leave modelling out"
        yield warning("trainer-modelling", "workload", "modelling", message, hint)
