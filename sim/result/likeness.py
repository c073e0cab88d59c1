"""What makes runs comparable: features of a job, and residuals of published runs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sim.blocks.parameters import count_parameters
from sim.data import DATA, table
from sim.fabric import compile_fabric
from sim.inputs.architecture import facts_of
from sim.inputs.gpu import Gpu
from sim.inputs.recipes import RECIPES
from sim.inputs.shares import batch_on
from sim.inputs.strategy import strategy_of
from sim.inputs.topology import Topology
from sim.inputs.trainer import trainer_of
from sim.inputs.workload import Workload
from sim.records import NamedTuple

NOISE = 0.02  # of one measurement: the same job in two editions differs by 3.7 % on average
#: how far constants may be off, as shares of the time that they decide: what a residual is held
#: against, since a step that waits for its host says little of one that multiplies. Assumed.
DOUBT = {
    "products": 0.05, "attention": 0.15, "maps": 0.15, "slowdown": 0.5, "host": 0.3, "exposed": 0.3,
    "waiting": 0.5, "retries": 1.0,
}  # fmt: skip


class JobTraits(NamedTuple):
    """What is asked about, as far as residuals know."""

    generation: str
    strategy: str
    method: str  # full, lora, or a quantization
    gpus: int
    parameters: float
    tokens: float
    trainer: str = "none"
    link: str = "none"  # that most of its traffic is held to: none, nvlink, pcie, a kind of NIC
    fp8: bool = False
    compiled: bool = False
    scale: float = NOISE  # what its doubts come to, of the logarithm of its time
    stand_in: bool = False  # its kernels are another architecture's
    own: bool = False  # a GPU that is not of the catalogue
    staged: float = 0.0  # half-width for rates through host memory, of the logarithm of its time
    scans: float = 0.0  # the same, for scans that take twice as long: none was timed
    recipe: float = 0.0  # the same, for products and casts of a recipe that none was timed of


#: how many of them, the first, a published run is kept with; the others tell of a question alone
TRAITS_KEPT = JobTraits._fields.index("scale") + 1


class Residual(NamedTuple):
    """One published run."""

    id: str
    source: str
    model: str
    job: JobTraits
    without_model: float  # log of measured over predicted time, whole models left out
    without_source: float  # the same, whole sources left out

    @classmethod
    def read(cls, row: Sequence[Any]) -> Residual:
        """A row of the data file: the job's features in the middle."""
        return cls(row[0], row[1], row[2], JobTraits(*row[3:-2]), row[-2], row[-1])

    def written(self) -> list[Any]:
        """The row of the data file."""
        return [self.id, self.source, self.model, *self.job[:TRAITS_KEPT], *self[-2:]]


def doubts(
    parts: Mapping[str, float], slowdown_s: float, retries_s: float = 0.0
) -> dict[str, float]:
    """Shares of a step that the constants of `DOUBT` decide.

    Parameters
    ----------
    parts : mapping of str to float
        The step by what the compute lane does, adding up to its time. [s]
    slowdown_s : float
        What kernels lost to collectives beside them. [s]
    retries_s : float
        Of ``host``, what the allocator's retries near capacity take. [s]

    Returns
    -------
    dict of str to float
        By the keys of `DOUBT`. [1]
    """
    total = sum(parts.values())
    seconds = {
        "products": parts.get("gemm", 0.0),
        "attention": parts.get("attention", 0.0) + parts.get("scan", 0.0),
        "slowdown": slowdown_s, "host": parts.get("host", 0.0) - retries_s, "retries": retries_s,
        "exposed": parts.get("exposed_communication", 0.0), "waiting": parts.get("waiting", 0.0),
    }  # fmt: skip
    apart = ("gemm", "attention", "scan", "host", "exposed_communication", "copies", "waiting")
    seconds["maps"] = sum(s for name, s in parts.items() if name not in apart)
    return {name: seconds[name] / total for name in DOUBT}


def job_of(
    topology: Topology, workload: Workload, parts: Mapping[str, float], slowdown_s: float,
    retries_s: float = 0.0,
) -> JobTraits:  # fmt: skip
    """The features by which rows are comparable; `parts` and all after it as for `doubts`."""
    node = topology.groups[0].node if topology.groups else None
    link = "none"
    if topology.world_size > 1:
        local = "graph" if node is None else "nvlink" if node.nvlink else "pcie"
        far = (
            node is not None and node.nics is not None and len(topology.groups) + topology.nodes > 2
        )
        link = node.nics.kind if far and node is not None and node.nics is not None else local
    shares = doubts(parts, slowdown_s, retries_s)
    low, high = compile_fabric(topology).staging_range()
    return JobTraits(
        generation=_generation(topology.slowest_gpu),
        strategy=strategy_of(workload).measured_as or workload.parallelism.strategy,
        method=workload.method.told,
        gpus=topology.world_size,
        parameters=float(count_parameters(workload.model, workload.method).total),
        tokens=float(batch_on(workload).local_tokens),
        trainer=trainer_of(workload).name,
        link=link,
        fp8=workload.precision.low,
        compiled=workload.compile,
        scale=math.sqrt(NOISE**2 + sum((DOUBT[key] * shares[key]) ** 2 for key in DOUBT)),
        stand_in=not _own_constants(topology.slowest_gpu),
        own=not topology.slowest_gpu.base,
        staged=shares["exposed"] * math.log(high / low) / 2.0,
        scans=math.log1p(parts.get("scan", 0.0) / sum(parts.values())),
        recipe=_recipe(workload, parts),
    )


def _recipe(workload: Workload, parts: Mapping[str, float]) -> float:
    """Half-width for products and casts that take twice as long: no run timed their recipe."""
    recipe = RECIPES.get(workload.precision.recipe)
    if recipe is None or recipe.timed:
        return 0.0
    seconds = parts.get("gemm", 0.0) + parts.get("quantize", 0.0)
    return math.log1p(seconds / sum(parts.values()))


def _own_constants(gpu: Gpu) -> bool:
    """Whether the constants a GPU takes are of its own architecture."""
    known: str = table(f"constants/{facts_of(gpu).constants}")["architecture"]
    return known == gpu.architecture


def _generation(gpu: Gpu) -> str:
    """The generation whose constants it takes, or its architecture where they are another's."""
    return facts_of(gpu).constants if _own_constants(gpu) else gpu.architecture


@cache
def residuals() -> tuple[Residual, ...]:
    """Of step times, all of the data file."""
    text = (DATA / "measured" / "residuals.json").read_text(encoding="utf-8")
    return tuple(Residual.read(row) for row in json.loads(text)["rows"])
