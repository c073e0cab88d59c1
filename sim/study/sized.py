"""What `size` answers: the best plan of every machine, and what lies beside the winner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

from sim.documents import SCHEMAS, Document, Section
from sim.quantities import counted, duration, percent, usd
from sim.records import dataclass
from sim.step.step import memory_of
from sim.study.candidates import NODES, Candidate
from sim.study.estimates import Simulated
from sim.study.machine_offers import price_doubt
from sim.study.machines import Machine
from sim.study.phases import PhasePlan
from sim.study.search import Counts
from sim.study.target import Target

#: GPUs that a batch without `global_batch` is counted on, where no number of them is asked for
REFERENCE_GPUS = 8


@dataclass(frozen=True, slots=True)
class Contender(Section):
    """The best plan of one machine, or why it has none.

    Attributes
    ----------
    machine : Machine
        What is rented.
    plan : Simulated or None
        Best plan that meets the target; None if there is none.
    nearest : Simulated or None
        Where there is none: the plan that misses the target least; None if nothing fits.
    likeliest : Candidate or None
        Where nothing has room in memory as surely as is asked: what is likeliest to have it.
    cheaper : Simulated or None
        A plan of more GPUs that is better by less than the slack.
    break_even_usd : float or None
        Price per GPU-hour at which its plan would cost as much as the winner's. [USD/h]
    at_least : float or None
        Where the search ended before its best plan was known: what of the objective no plan of it
        is below, however good. [s, USD, kg or J]
    unfinished : bool
        The search ended before it was known that no other plan is better.
    untried : str
        Why no plan of it can be judged by what is asked, or is refused, and what would help; empty
        where one can, and where no cluster divides the batch.
    """

    machine: Machine
    plan: Simulated | None
    nearest: Simulated | None = None
    likeliest: Candidate | None = None
    cheaper: Simulated | None = None
    break_even_usd: float | None = None
    at_least: float | None = None
    unfinished: bool = False
    untried: str = ""

    @property
    def doubt(self) -> str:
        """Why its price is not to be relied on; empty where it is."""
        return price_doubt(self.machine.topology.offer)

    @property
    def fit_probability(self) -> float | None:
        """Of the plan, or of the likeliest one; None where there is none at all. [1]"""
        if self.likeliest is not None:
            memory = memory_of(self.likeliest.topology, self.likeliest.workload)
            return memory.verdict.probability
        plan = self.plan or self.nearest
        return None if plan is None else plan.memory.verdict.probability

    def content(self) -> dict[str, Any]:
        """Machine, plan and price."""
        return {
            "machine": self.machine.name,
            "note": self.machine.note,
            "price_doubt": self.doubt,
            "plan": self.plan,
            "nearest": self.nearest,
            "fit_probability": self.fit_probability,
            "cheaper": self.cheaper,
            "break_even_usd_per_gpu_hour": self.break_even_usd,
            "at_least": self.at_least,
            "unfinished": self.unfinished,
            "untried": self.untried,
        }


@dataclass(frozen=True, slots=True)
class Beside(Section):
    """A layout beside the winner's, on as many GPUs of the same machine.

    Attributes
    ----------
    axis, value : str
        What differs: an axis of `sim.study.layouts.AXES` or ``schedule``, and what it is there.
    plan : Simulated or None
        Its best plan, whatever the target; None if none fits.
    needed_bytes : float
        Memory of that plan, or of the one that needs least. [B]
    """

    axis: str
    value: str
    plan: Simulated | None
    needed_bytes: float


@dataclass(frozen=True, slots=True)
class SizeReport(Document):
    """Answer of a search.

    Attributes
    ----------
    target : Target
        What was asked.
    workload : str
        Its name.
    global_batch : int
        Sequences a step, of every plan.
    assumed_on : int or None
        Where the workload left it open: the GPUs that its own batch was counted on.
    contenders : tuple of Contender
        Best first; those without a plan last.
    tally : Counts
        Candidates considered, simulated, too large, ruled out by bounds.
    left_out : tuple of str
        Machines that are not where or what is wanted.
    fewer, more : Simulated or None
        The winner's machine with the next smaller and the next larger number of nodes, each with
        its own best layout, whatever the target.
    seconds : float
        The search itself. [s]
    risk : float
        Probability of running out of memory that a plan may have. [1]
    most_gpus : int
        Largest cluster that was considered. [1]
    exact_gpus : int or None
        The only size asked for, where one was: nothing is known of others. [1]
    beside : tuple of Beside
        Where layouts were searched: those next to the winner's.
    phases : tuple of PhasePlan
        Other phases of the job, each on a machine of its own.
    stopped : bool
        The search was stopped: what there is is the best so far.
    decided : bool
        It was known by then that no other offer has a better plan than the winner's.
    not_begun : int
        Machines that it had not come to by then.
    """

    schema: ClassVar[str] = SCHEMAS["size"]

    target: Target
    workload: str
    global_batch: int
    assumed_on: int | None
    contenders: tuple[Contender, ...]
    tally: Counts
    left_out: tuple[str, ...]
    fewer: Simulated | None
    more: Simulated | None
    seconds: float
    risk: float
    most_gpus: int
    exact_gpus: int | None = None
    phases: tuple[PhasePlan, ...] = ()
    beside: tuple[Beside, ...] = ()
    stopped: bool = False
    not_begun: int = 0
    decided: bool = True

    def sentence(self) -> str:
        """The winner, and the price at which the runner-up would win; else the nearest miss."""
        if self.winner is None:
            return self._nothing()
        first, *others = [c for c in self.contenders if c.plan is not None]
        assert first.plan is not None
        f = first.plan.figures
        size = counted(first.plan.candidate.gpus, "GPU")
        said = f"Take {size} of {first.machine.name}: {duration(f.wall_s)}"
        offer = first.plan.candidate.topology.offer
        if offer is not None and offer.setup:
            said += f", {duration(offer.setup)} of it before the first step"
        said += f", {usd(f.cost_usd)}." if f.cost_usd < float("inf") else "."
        if others and others[0].plan is not None:
            second = others[0].plan.figures
            said += f" The runner-up is {others[0].machine.name} with {duration(second.wall_s)}"
            said += f" and {usd(second.cost_usd)}" if second.cost_usd < float("inf") else ""
            even = others[0].break_even_usd
            said += f"; it wins below {usd(even)} for a GPU-hour." if even else "."
        return said

    def _nothing(self) -> str:
        """That no plan meets the target, and by how much the nearest misses it."""
        if self.nearest is None:
            if self.stopped:
                return "Nothing was found yet."
            tried = any(c.likeliest is not None for c in self.contenders)
            return "Nothing fits in memory." if tried else "No plan was tried on any machine."
        plan, f = self.nearest.candidate, self.nearest.figures
        said = f"{counted(plan.gpus, 'GPU')} of {plan.machine.name}: {duration(f.wall_s)}"
        said += f", {usd(f.cost_usd)}" if f.cost_usd < float("inf") else ""
        missed = self.target.shortfall(f) - 1.0
        by = percent(missed, 0 if missed >= 0.01 else 2)
        return " ".join(filter(None, (
            f"Nothing meets the target; the nearest miss is {said}, by {by}.", self.cap()
        )))  # fmt: skip

    def cap(self) -> str:
        """What of the question kept the nearest miss from more GPUs; "" if it wants no more."""
        if self.nearest is None or self.exact_gpus is not None or self.stopped:
            return ""
        plan = self.nearest.candidate
        knobs, per_node = plan.workload.parallelism, plan.topology.gpus_per_node
        size = counted(plan.gpus, "GPU")
        if plan.gpus // knobs.sharing == self.global_batch:
            batch = counted(self.global_batch, "sequence")
            return f"{batch} feed {size} at most in this layout: --global-batch, more may do."
        more = next((n for n in NODES if n > plan.topology.nodes), None)
        if more is None or more > plan.machine.most_nodes or more * per_node <= self.most_gpus:
            return ""
        return f"Larger clusters were not tried (--max-gpus {self.most_gpus}): more may do."

    def content(self) -> dict[str, Any]:
        """Target, counts of the search, winner and contenders."""
        return {
            "workload": self.workload,
            "target": self.target,
            "global_batch": self.global_batch,
            "assumed_on_gpus": self.assumed_on,
            "most_gpus": self.most_gpus,
            "exact_gpus": self.exact_gpus,
            "cap": self.cap(),
            "risk": self.risk,
            **asdict(self.tally),
            "winner": self.winner,
            "contenders": self.contenders,
            "phases": self.phases,
            "beside": self.beside,
            "fewer": self.fewer,
            "more": self.more,
            "left_out": self.left_out,
            "stopped": self.stopped,
            "decided": self.decided,
        }

    def records(self) -> Sequence[Mapping[str, Any]]:
        """The best plan of every machine that has one."""
        return [
            c.plan.content()
            | {"break_even_usd_per_gpu_hour": c.break_even_usd, "note": c.machine.note}
            for c in self.contenders
            if c.plan is not None
        ]

    @property
    def winner(self) -> Simulated | None:
        """The best plan of all."""
        return self.contenders[0].plan if self.contenders else None

    @property
    def nearest(self) -> Simulated | None:
        """Where nothing meets the target: the plan that misses it least."""
        missed = [c.nearest for c in self.contenders if c.nearest]
        return min(missed, key=lambda p: self.target.shortfall(p.figures), default=None)
