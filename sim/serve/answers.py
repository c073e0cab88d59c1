"""What a worker makes of a request: the verb's document, and the parts of the page that show it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from sim.errors import TOLD, InputError
from sim.fabric import compile_fabric
from sim.inputs.arguments import Argument
from sim.inputs.loader import Loaded, Prepared, prepare
from sim.interop.emit_yaml import topology_yaml, workload_yaml
from sim.page.charts.canvas import Chart
from sim.page.model import Case, Piece, Tiles
from sim.page.render import piece_html
from sim.page.sections import machine as machine_section
from sim.page.sections.answers import pieces_of, priced_plans
from sim.page.sections.decision import further
from sim.page.sections.lead import lead_of
from sim.page.sections.memory import memory_bars, memory_chart
from sim.page.sections.scaling import scaling_chart
from sim.page.sections.step import apart, parts_chart, timeline_chart
from sim.quantities import duration, usd
from sim.report.settings import settings
from sim.result.predict import predict
from sim.result.result import Result
from sim.result.sections import title_of
from sim.serve.requests import (
    BODIES,
    DegradedBody,
    DiagnoseBody,
    DrawnBody,
    JobBody,
    PlanBody,
    RunBody,
    SizeBody,
    TraceBody,
)
from sim.step.spans import step_timeline
from sim.step.variation import Variation, capacities, read_variation
from sim.study.sized import SizeReport

_ENGINE = "compiled"  # it is warm here
MOST_GPUS = 65_536  # of a machine that is answered in the time that a request has


def answer(verb: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """The answer to a request.

    Parameters
    ----------
    verb : str
        Of `BODIES`.
    body : dict
        As it was sent.

    Returns
    -------
    int, dict
        HTTP status, and the JSON: the document under ``document``, parts of the page under
        ``html``; of bad input its faults.
    """
    from pydantic import ValidationError

    try:
        asked = BODIES[verb].model_validate(body)
    except ValidationError as error:
        found = [
            {"path": ".".join(map(str, e["loc"])), "message": e["msg"]} for e in error.errors()
        ]
        return 422, {"faults": _told(found)}
    if wrong := asked.check():
        return 422, {"faults": [{"path": "", "message": text} for text in wrong]}
    try:
        return 200, _ANSWERS[verb](asked)
    except InputError as error:
        faults = [
            {"path": f.path or _option(f.source), "message": f.message, "line": f.line,
             "column": f.column}
            for f in error.faults
        ]  # fmt: skip
        return 422, {"faults": _told(faults)}


def _option(source: str) -> str:
    """The key of a request that an option stands for: several fields may be at fault at once."""
    return source.removeprefix("--") if source.startswith("--") else ""


def _told(faults: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Faults as far as anyone reads them: a body of a megabyte may have a quarter of a million."""
    more = len(faults) - TOLD
    return [*faults[:TOLD], *([{"path": "", "message": f"and {more:,} more"}] if more > 0 else [])]


def warm() -> None:
    """Compile and load what the first request would wait for."""
    answer("run", {"topology": "dgx-h100", "workload": "llama3-8b-sft"})


@lru_cache(maxsize=32)
def _prepared(topology: str, workload: str) -> Prepared:
    """Both files, parsed once."""
    return prepare(_argument(topology), _argument(workload))


def _argument(text: str) -> Argument:
    found: Argument = json.loads(text)
    return found


def _loaded(job: JobBody) -> Loaded:
    prepared = _prepared(json.dumps(job.topology), json.dumps(job.workload))
    found = (prepared.vary(job.overrides) if job.overrides else prepared).loaded()
    if (gpus := found.topology.world_size) > MOST_GPUS:
        message = f"{gpus:,} GPUs; this page takes {MOST_GPUS:,} at most, `scaling-sim run` more"
        raise InputError.single(found.topology.name, message, "nodes")
    return found


def _varied(job: DegradedBody) -> Variation:
    return read_variation("0%", job.slow, 0, 1)


def _simulated(
    job: DegradedBody, *, curve: bool = False, changes: bool = False
) -> tuple[Loaded, Result]:
    loaded, varied = _loaded(job), _varied(job)
    return loaded, predict(
        loaded.topology, loaded.workload, loaded.notes, engine=_ENGINE, scaling=curve,
        fixes=changes, level=varied.level(None), variation=varied,
    )  # fmt: skip


def _run(asked: RunBody) -> dict[str, Any]:
    loaded, result = _simulated(asked, curve=asked.curve, changes=asked.changes)
    cases = [Case("B" if asked.beside else "", result)]
    if asked.beside is not None:
        cases.insert(0, Case("A", _simulated(asked.beside)[1]))
    parts: list[tuple[str, Piece]] = [
        ("tiles", Tiles(result.headline())), ("further", Tiles(list(further(result)), True)),
        ("parts", parts_chart(cases)), ("memory", memory_bars(cases)),
    ]  # fmt: skip
    if len(result.scaling.curve) > 1:
        parts.append(("scaling", scaling_chart(result, result.scaling)))
    found: dict[str, Any] = {
        "document": result.to_dict(),
        "sentence": result.sentence(),
        "warnings": [w.text for w in result.warnings],
        "html": {name: _html([part]) for name, part in parts},
        "copies": _copies(asked, loaded),
    }
    if asked.beside is not None:
        found["beside"] = _ratios(cases[0].result, result)
    if asked.changes:
        found["changes"] = [
            {"text": fix.text, "overrides": _words(fix.change),
             "ratio": fix.step_time_ratio, "verdict": fix.verdict}
            for fix in result.bottleneck.fixes
        ]  # fmt: skip
    return found


def _words(change: dict[str, Any]) -> list[str]:
    """A change as overrides."""
    return [word for word in shlex.split(settings(change)) if word != "--set"]


def _ratios(a: Result, b: Result) -> dict[str, float | None]:
    """B over A."""
    return {
        "tokens_per_s": b.throughput.tokens_per_s / a.throughput.tokens_per_s,
        "memory": b.memory.needed_bytes / a.memory.needed_bytes,
        "cost": b.cost.total_usd / a.cost.total_usd if a.cost and b.cost else None,
    }


def _copies(job: DegradedBody, loaded: Loaded) -> dict[str, str]:
    """The same as a command, a program and files."""
    yaml = f"# topology.yaml\n{topology_yaml(loaded.topology)}\n"
    yaml += f"# workload.yaml\n{workload_yaml(loaded.workload)}"
    named = isinstance(job.topology, str) and isinstance(job.workload, str)
    first = str(job.topology) if isinstance(job.topology, str) else "topology.yaml"
    second = str(job.workload) if isinstance(job.workload, str) else "workload.yaml"
    options = [("--set", text) for text in job.overrides]
    options += [("--slow", text) for text in job.slow]
    given = {"overrides": job.overrides, "slow": job.slow}
    said = "".join(f", {name}={list(value)!r}" for name, value in given.items() if value)
    python = f"import sim\n\nresult = sim.simulate({first!r}, {second!r}{said})\n"
    python += "print(result.step.time_s, result.memory.verdict)\n"
    words = (word for option in options for word in option)
    command = shlex.join(["scaling-sim", "run", first, second, *words])
    return {"cli": command, "python": python, "yaml": yaml, "named": str(named).lower()}


def _draw(asked: DrawnBody) -> dict[str, Any]:
    cases = []
    for label, job in (("A", asked.beside), ("B" if asked.beside else "", asked)):
        if job is not None:
            loaded, result = _simulated(job)
            machine, work, _ = loaded
            drawn = asked.what == "timeline"
            title = title_of(machine, work)
            varied, fabric = _varied(job), compile_fabric(machine)
            line = step_timeline(machine, work, title, variation=varied) if drawn else None
            cases.append(Case(label, result, line, fabric, capacity=capacities(varied, fabric)))
    parts: list[Piece] = []
    if asked.what == "timeline":
        lines = [(c.label, c.timeline) for c in cases if c.timeline is not None]
        parts = [timeline_chart(lines), *([apart(lines)] if len(lines) > 1 else [])]
        parts += [memory_chart(*line) for line in lines]
        return {"document": lines[-1][1].to_dict(), "html": {"timeline": _html(parts)}}
    found = machine_section.drawn(cases, editable=True)
    said = "" if found is None else found.lead
    parts = list(found.parts) if found is not None else []
    rows = [list(part.rows) for part in parts if isinstance(part, Chart)]
    return {"document": {"links": rows}, "sentence": said, "html": {"machine": _html(parts)}}


def _size(asked: SizeBody) -> dict[str, Any]:
    import sim
    from sim.report.size import view

    found = sim.size(
        asked.workload, objective=asked.objective, deadline=asked.deadline, budget=asked.budget,
        gpu=asked.gpu, provider=asked.provider, spot=asked.spot, max_gpus=asked.max_gpus,
        overrides=asked.overrides,
    )  # fmt: skip
    said = view(found)
    return {
        "document": found.to_dict(),
        "sentence": lead_of(found) or said.title,
        "plans": list(_plans(found)),
        "html": {"size": _html([*pieces_of(found), *said.filled])},
    }


def _plans(found: SizeReport) -> Iterator[dict[str, Any]]:
    """The best plan of every machine, for limits to be moved over; with the words for each."""
    for name, figures in priced_plans(found):
        yield {
            "name": name, "seconds": figures.wall_s, "usd": figures.cost_usd,
            "time": duration(figures.wall_s), "cost": usd(figures.cost_usd),
        }  # fmt: skip


def _plan(asked: PlanBody) -> dict[str, Any]:
    import sim
    from sim.report.plan import view

    jobs = [job.model_dump(exclude_none=True) for job in asked.jobs]
    found = sim.plan(asked.topology, {"jobs": jobs}, policy=asked.policy, overrides=asked.overrides)
    said = view(found)
    return {
        "document": found.to_dict(), "sentence": said.title,
        "html": {"plan": _html([*pieces_of(found), *said.filled])},
    }  # fmt: skip


def _diagnose(asked: DiagnoseBody) -> dict[str, Any]:
    import sim
    from sim.report.diagnose import view

    found = sim.diagnose(
        asked.topology, asked.workload, measured=asked.measured, overrides=asked.overrides
    )
    said = view(found)
    return {
        "document": found.to_dict(), "sentence": said.title,
        "html": {"diagnose": _html(said.filled)},
    }  # fmt: skip


def _trace(asked: TraceBody) -> dict[str, Any]:
    from sim.interop.kineto import events_of
    from sim.interop.profile import profile_of
    from sim.interop.trace_diff import compared, simulated_profile
    from sim.report.trace_diff import view

    theirs = profile_of(*events_of(asked.recorded, asked.name), asked.name, steps=asked.steps)
    found = compared(theirs, simulated_profile(_loaded(asked), theirs.rank))
    said = view(found)
    return {
        "document": found.to_dict(), "sentence": lead_of(found),
        "html": {"trace": _html([*pieces_of(found), *said.filled])},
    }  # fmt: skip


def _html(parts: Sequence[Piece]) -> str:
    return "\n".join(line for part in parts for line in piece_html(part))


_ANSWERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "run": _run,
    "draw": _draw,
    "size": _size,
    "plan": _plan,
    "diagnose": _diagnose,
    "trace": _trace,
}
