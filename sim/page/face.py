"""The page of a job from Python: what ``scaling-sim run --report`` writes."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.api.arguments import File, Overrides, settings

if TYPE_CHECKING:
    from sim.inputs.arguments import Argument
    from sim.inputs.calibration import Calibration


@dataclass(frozen=True, slots=True)
class Page:
    """An HTML page: `text` is all of it; a notebook shows it in a frame."""

    text: str

    def write(self, path: File) -> Path:
        """Write it to a file."""
        from sim.files import write_whole

        write_whole(Path(path), self.text)
        return Path(path)

    def _repr_html_(self) -> str:
        style = "width: 100%; height: 48rem; border: 0"
        return f'<iframe title="report" style="{style}" srcdoc="{escape(self.text)}"></iframe>'


def report_page(
    topology: Argument,
    workload: Argument,
    *,
    overrides: Overrides = (),
    calibration: File | Calibration | None = None,
    **keys: Any,
) -> Page:
    """Predict one job on one machine, as a page with charts to look at and hand over.

    Parameters
    ----------
    topology, workload, overrides, calibration, keys
        As for `sim.simulate`.

    Raises
    ------
    InputError
        All faults of both inputs.
    """
    import sim
    from sim.page.asked import Asked
    from sim.page.gather import dossier_of
    from sim.page.render import page
    from sim.report.run import view

    sets = settings(overrides, calibration, keys)
    result = sim.simulate(topology, workload, overrides=sets)
    return Page(page(dossier_of(view(result), [Asked(topology, workload, sets, result)])))
