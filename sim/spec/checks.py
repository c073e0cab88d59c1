"""Cross-checks: what no single key can tell, each with its remedy."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

from sim.spec.base import Spec
from sim.spec.notes import Notice
from sim.spec.topology import Topology
from sim.spec.workload import Workload

S = TypeVar("S", bound=Spec)


class Finding(NamedTuple):
    """An error or a warning about a key of one side."""

    error: bool
    code: str
    side: str
    path: str
    message: str
    hint: str = ""

    def notice(self) -> Notice:
        """The finding as a warning of the result."""
        return Notice(self.code, f"{self.side}.{self.path}", self.message, self.hint)


def finish(spec: S) -> S:
    """Fill in what follows from other keys of the same file."""
    return spec


def check(topology: Topology, workload: Workload) -> tuple[Finding, ...]:
    """Every finding about a pair."""
    return ()


def check_one(spec: Spec) -> tuple[Finding, ...]:
    """Every finding about one side alone."""
    return ()
