"""The sections of a page, in order: a file each, with ``section(dossier)``, and a line here."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from sim.page.model import Dossier, PageSection

ORDER = ("decision", "step", "memory", "scaling", "machine", "money", "trust", "inputs")


def sections(dossier: Dossier) -> Iterator[PageSection]:
    """The sections that have something to say."""
    for name in ORDER:
        found = importlib.import_module(f"{__name__}.{name}").section(dossier)
        if found is not None:
            yield found
