"""What may be asked: the bodies of requests, checked by pydantic, which writes their schema."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sim.choices import LIMITS, PROMPT_GPUS, Objective, Policy
from sim.inputs import catalogue

_STEPS = LIMITS["StepCount"][1]
_Text = Annotated[str, Field(max_length=500)]
_Time = Annotated[str, Field(max_length=40)]
_Name = Annotated[str, Field(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def not_shipped(pairs: Sequence[tuple[str, Any]]) -> list[str]:
    """Kinds and names of which there is nothing, in words."""
    return [
        f"{name!r} is not shipped; see GET /api/catalogue, or send its keys as a mapping"
        for kind, name in pairs
        if isinstance(name, str) and catalogue.find(kind, name) is None
    ]


class JobBody(_Body):
    """A job on a machine: shipped names, or the keys of a file as a mapping; never a path."""

    topology: _Name | dict[str, Any] = Field(examples=["dgx-h100"])
    workload: _Name | dict[str, Any] = Field(examples=["llama3-8b-sft"])
    overrides: list[_Text] = Field(default=[], max_length=64, examples=[["nodes=2"]])

    def check(self) -> list[str]:
        """What is wrong with its names."""
        return not_shipped([("topologies", self.topology), ("workloads", self.workload)])


class DegradedBody(JobBody):
    """A job on a machine of which some parts are slow."""

    slow: list[_Text] = Field(
        default=[], max_length=32, examples=[["rank:3=0.9", "link:n0/nic2<>leaf0.2=0.5"]],
        description="as for --slow: a GPU or a link, and what it gives of its speed",
    )  # fmt: skip


class RunBody(DegradedBody):
    """Simulate it; `beside` is what it is held against."""

    curve: bool = Field(default=False, description="also 1, 2, 4 and 8 nodes")
    changes: bool = Field(default=False, description="also changes worth trying")
    beside: DegradedBody | None = None


class DrawnBody(DegradedBody):
    """Draw its step and its machine."""

    beside: DegradedBody | None = None
    what: Literal["timeline", "machine"] = "timeline"


class SizeBody(_Body):
    """The best cluster for a job."""

    workload: _Name | dict[str, Any] = Field(examples=["mistral-7b-lora"])
    overrides: list[_Text] = Field(default=[], max_length=64)
    objective: Objective = "cost"
    deadline: _Time | None = Field(default=None, examples=["48h"])
    budget: Annotated[str, Field(max_length=40)] | None = Field(default=None, examples=["500 USD"])
    gpu: list[_Name] = Field(default=[], max_length=8)
    provider: list[_Name] = Field(default=[], max_length=8)
    spot: bool = False
    max_gpus: int = Field(default=PROMPT_GPUS, ge=1, le=512)

    def check(self) -> list[str]:
        """What is wrong with its names."""
        return JobBody(topology={}, workload=self.workload).check()


class SharedJob(_Body):
    """A job of a plan, or several alike."""

    name: Annotated[str, Field(min_length=1, max_length=60)] = Field(examples=["nightly"])
    workload: _Name = Field(examples=["llama3-8b-sft"])
    nodes: int = Field(default=1, ge=1, le=512)
    arrival: _Time = "0 h"
    deadline: _Time | None = Field(default=None, examples=["8 h"])
    priority: int = Field(default=0, ge=-100, le=100)
    count: int = Field(default=1, ge=1, le=100)
    every: _Time = "0 h"


class PlanBody(_Body):
    """Several jobs on one cluster."""

    topology: _Name | dict[str, Any] = Field(examples=["dgx-h100"])
    overrides: list[_Text] = Field(default=[], max_length=64, examples=[["nodes=8"]])
    jobs: list[SharedJob] = Field(min_length=1, max_length=24)
    policy: Policy = "fifo"

    def check(self) -> list[str]:
        """What is wrong with its names."""
        pairs = [("topologies", self.topology), *(("workloads", j.workload) for j in self.jobs)]
        return not_shipped(pairs)


class DiagnoseBody(JobBody):
    """Why a run is slower than it should be."""

    measured: _Text = Field(examples=["tokens_per_s_per_gpu=3000"])


class TraceBody(JobBody):
    """A recorded step beside the simulated one."""

    recorded: dict[str, Any] | list[Any] = Field(
        description="a trace of PyTorch's profiler, of one rank",
        examples=[{"traceEvents": [
            {"ph": "X", "cat": "kernel", "name": "gemm", "pid": 0, "tid": 7, "ts": 0, "dur": 9e6},
        ]}],
    )  # fmt: skip
    name: _Text = Field(default="the recording", description="of its file")
    steps: int | None = Field(default=None, ge=_STEPS.ge, le=_STEPS.le, examples=[1],
                              description="where it marks none")  # fmt: skip


#: verb -> the body it takes
BODIES: dict[
    str,
    type[RunBody]
    | type[DrawnBody]
    | type[SizeBody]
    | type[PlanBody]
    | type[DiagnoseBody]
    | type[TraceBody],
] = {
    "run": RunBody,
    "draw": DrawnBody,
    "size": SizeBody,
    "plan": PlanBody,
    "diagnose": DiagnoseBody,
    "trace": TraceBody,
}
