"""The op table that engines run, and the timeline they return.

A `Program` is a set of column arrays. `assemble` makes one from columns in any order, vectorised,
for programs of thousands to millions of ops.

The rules (docs/decisions/0006-engine.md has the reasons):

- Ops on one lane run in index order; the other precedence edges are in the successor CSR. An op
  starts at the largest end of its predecessors, exactly.
- An op runs its fixed latency, then its work. Its rate is ``weight`` times the water level of
  weighted max-min sharing, limited by its bound and by the capacities it draws on.
- An op may take whole units of a countable resource (SMs) when it starts and give them back when
  `hold_until` ends. Takes never wait: where more is held than there is, none is left.
- The bound of an op with a curve is a step function of the units left.
- Step s of a stepped op starts when its own and its peer's step s-1 are done; the op ends when
  both have done all their steps. Each step has the op's latency and work.
"""

from sim.program.assembly import assemble, followers_of, revalue, successors_of
from sim.program.checks import check_acyclic, find_cycle, validate, validate_structure
from sim.program.table import F8, I4, I8, NUMBERS, Program, Timeline

__all__ = [
    "F8",
    "I4",
    "I8",
    "NUMBERS",
    "Program",
    "Timeline",
    "assemble",
    "check_acyclic",
    "find_cycle",
    "followers_of",
    "revalue",
    "successors_of",
    "validate",
    "validate_structure",
]
