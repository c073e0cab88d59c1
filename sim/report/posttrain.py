"""A step of post-training: its parts, who generates how, what both engines hold."""

from __future__ import annotations

from sim.quantities import counted, duration, gib, percent, usd
from sim.report.view import Cell, Column, Fact, Facts, Lines, Row, Table, View, ViewPart, left
from sim.study.post_trained import PostTrainingReport

_BESIDE = (
    "generation and training run side by side: what is trained on was generated with the weights "
    "of a step before"
)


def view(found: PostTrainingReport) -> View:
    """What `scaling-sim posttrain` says."""
    where = {
        "split": f"{found.training_gpus} train, {found.gpus - found.training_gpus} generate",
        "colocated": "the same GPUs generate and train",
        "training only": "nothing is generated",
    }[found.placement]
    title = (
        f"{found.name}: {found.algorithm.upper()} on {counted(found.gpus, 'GPU')} ({where}): "
        f"{duration(found.step_s)} a step"
    )
    facts = [
        Fact("step", f"{duration(found.step_s)} (p10 {duration(found.p10_s)}, "
                     f"p90 {duration(found.p90_s)} over lengths drawn)"),
        Fact("tokens/s", f"{found.tokens_per_s:,.0f} trained on, prompts included"),
    ]  # fmt: skip
    if found.cost_per_step_usd is not None:
        text = f"{usd(found.cost_per_step_usd)} a step"
        if found.steps:
            text += (
                f", {usd(found.steps * found.cost_per_step_usd)} for {counted(found.steps, 'step')}"
            )
            text += f" in {duration(found.steps * found.step_s)}"
        facts.append(Fact("cost", text))
    facts.append(
        Fact("training", f"{gib(found.training_bytes)} of {gib(found.capacity_bytes)} a GPU")
    )
    if (r := found.rollout) is not None:
        engine = f"{r.tensor_parallel} GPU" + "s" * (r.tensor_parallel > 1)
        facts.append(
            Fact(
                "engines",
                f"{r.engines} of {engine}, {r.at_a_time} sequences at a time each: "
                f"{r.tokens_per_s:,.0f} tokens/s; the longest completion has {r.longest_tokens:,}, "
                f"and engines idle up to {duration(r.tail_s)}",
            )
        )
        text = f"weights {gib(r.weights_bytes)}, cache {gib(r.cache_bytes)}"
        if r.resident_bytes:
            text += f", beside {gib(r.resident_bytes)} that training keeps"
        if found.offloaded_bytes:
            text += f"; {gib(found.offloaded_bytes)} of training wait in host memory"
        facts.append(Fact("their GPUs", text))
    rows: list[Row] = [
        [p.name, Cell(duration(p.seconds), p.seconds),
         Cell(percent(p.share), p.share), p.on]
        for p in found.parts
    ]  # fmt: skip
    notes = [f"! {key} changes nothing in this step; leave it out" for key in found.idle]
    notes += [_BESIDE] if found.overlap else []
    sections: list[ViewPart] = [
        Facts(facts, gap=3, apart=False),
        Table([left("part"), Column("time"), Column("of the step"), left("on")], rows, indent=0),
        Lines([*notes, *(f"assumed: {text}" for text in found.assumptions)], indent=0),
    ]
    return View(title, sections, found)
