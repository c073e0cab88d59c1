"""What a page needs beside a verb's own document: drawings, offers and evidence, each simulated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from sim.api.arguments import settings
from sim.fabric import compile_fabric
from sim.files import is_file
from sim.inputs import catalogue
from sim.inputs.arguments import Argument
from sim.inputs.config import resolved
from sim.inputs.loader import Loaded, load
from sim.inputs.offers import catalogue as every_offer
from sim.inputs.offers import newest
from sim.page.asked import Asked
from sim.page.model import Case, Dossier
from sim.report.view import View
from sim.result.bands import like_runs
from sim.result.figures import Scaling
from sim.result.predict import predict
from sim.result.result import Result
from sim.result.scaling import strong_curve
from sim.result.sections import title_of
from sim.step.spans import step_timeline
from sim.study.compared import Comparison
from sim.study.machine_offers import matching
from sim.study.pricing import PricedJobs, price_everywhere
from sim.study.sweep import SweepOutcome

_DRAWN = 2  # cases of a comparison whose steps are drawn


def case_of(
    loaded: Loaded, result: Result | None = None, label: str = "", *, drawn: bool = True,
    first: bool = True,
) -> Case:  # fmt: skip
    """One job on one machine.

    Parameters
    ----------
    loaded : Loaded
        Both specs.
    result : Result, optional
        What is known of it; else it is simulated.
    label : str
        What tells it from others.
    drawn, first : bool
        Whether its step is drawn; whether the page is about it: then the job is also priced
        everywhere, and its global batch simulated on other numbers of nodes.
    """
    machine, job, _ = loaded
    found = result or predict(machine, job, loaded.notes)
    return Case(
        label=label,
        result=found,
        timeline=step_timeline(machine, job, title_of(machine, job)) if drawn else None,
        fabric=compile_fabric(machine),
        offers=_offers(loaded, found) if first else None,
        keys=resolved(loaded),
        like=like_runs(machine, job, found),
        strong=_strong(loaded, found) if first and len(found.scaling.curve) > 1 else None,
    )


def _strong(loaded: Loaded, found: Result) -> Scaling | None:
    """The curve of the same global batch: the result's own, where it has one."""
    return found.strong_scaling or strong_curve(loaded.topology, loaded.workload)


def _offers(loaded: Loaded, result: Result) -> PricedJobs | None:
    """The job at every offer of its GPU; nothing for a job without a length or a graph of one."""
    if result.job is None or loaded.topology.node is None:
        return None
    rows = newest(every_offer(None))
    if not matching(loaded.topology, rows):
        return None
    return price_everywhere([loaded.topology], loaded.workload, rows, spot=True)


def asked_of(
    comparison: Comparison, topologies: Sequence[Argument], workloads: Sequence[Argument],
    overrides: Iterable[str] = (),
) -> list[Asked]:  # fmt: skip
    """The variants of a comparison as they were asked for: every machine with every job."""
    changes = len(comparison.variants) // (len(topologies) * len(workloads))
    found = []
    for i, variant in enumerate(comparison.variants):
        machine, job = divmod(i // changes, len(workloads))
        sets = (*overrides, *variant.changes)
        found.append(
            Asked(topologies[machine], workloads[job], sets, variant.result, variant.label)
        )
    return found


def best_of(outcome: SweepOutcome, overrides: Iterable[str] = ()) -> list[Asked]:
    """The configuration of a sweep that its page is about: first of the front, else the fastest."""
    rows = outcome.rows
    ok = [i for i, row in enumerate(rows) if row.status == "ok" and outcome.meets[i]]
    if not ok:
        return []
    best = max(ok, key=lambda i: rows[i].measures["tokens_per_s"])
    changes = dict(rows[outcome.front[0] if outcome.front else best].changes)
    label = ", ".join(f"{key}={value}" for key, value in changes.items())
    machine = changes.pop("topology", outcome.grid.topology)
    job = changes.pop("workload", outcome.grid.workload)
    sets = (*settings(outcome.grid.fixed), *overrides, *settings(changes))
    return [Asked(machine, job, sets, label=label)]


def dossier_of(view: View, asked: Sequence[Asked] = (), command: str = "") -> Dossier:
    """Everything a page says.

    Parameters
    ----------
    view : View
        Of the verb's document.
    asked : sequence of Asked
        The jobs it is about, the first in full.
    command : str
        That made it.
    """
    cases = [
        case_of(
            load(one.topology, one.workload, tuple(one.overrides)), one.result, one.label,
            drawn=i < _DRAWN, first=i == 0,
        )
        for i, one in enumerate(asked)
    ]  # fmt: skip
    return Dossier(view, command, tuple(cases), tuple(_files(asked)))


def _files(asked: Sequence[Asked]) -> list[tuple[str, str]]:
    """Inputs that are files or shipped, as they were written."""
    found: dict[str, str] = {}
    for one in asked:
        for folder, given in (("topologies", one.topology), ("workloads", one.workload)):
            if not isinstance(given, str | Path) or given == "-":
                continue
            file = Path(given) if is_file(Path(given)) else catalogue.find(folder, str(given))
            if file is not None:
                found[file.name] = file.read_text(encoding="utf-8")
    return list(found.items())
