"""What holds a step back, in one sentence, and which changes are worth simulating."""

from __future__ import annotations

from sim.blocks.kernels import STREAMED
from sim.job.forecast import JobForecast
from sim.quantities import percent
from sim.result.figures import Bottleneck, Fix, Memory, Step
from sim.result.parts import told

_BOUND = 1 / 6  # of the step, or of the wall time for data: less than this holds nothing up
_BOUNDS = {"memory-bandwidth": 1 / 3}  # every step has memory-bound kernels


def classify(step: Step, memory: Memory, retries_s: float = 0.0) -> Bottleneck:
    """Name the largest avoidable share of the step, of which the allocator retries `retries_s`.

    A step is compute-bound when matrix products and attention take most of it, memory-bound
    kernels, which every step has, less than a third, and nothing that could be hidden a sixth.
    Otherwise the largest of exposed communication, memory-bound kernels, the host, the allocator
    and the optimizer is named, of those that take so much where any does; the others that do
    are told beside it.
    """
    total = step.time_s
    parts = step.breakdown
    shares = {
        "communication": step.exposed_communication_s / total,
        "memory-bandwidth": sum(parts.get(key, 0.0) for key in STREAMED) / total,
        "host": (parts.get("host", 0.0) - retries_s) / total,
        "allocator": retries_s / total if memory.fits else 0.0,
        "optimizer": step.optimizer_s / total,
    }
    if memory.host_bytes_per_node > 0.0:  # the GPU waits for copies and for the CPU's update
        shares["offload"] = parts.get("copies", 0.0) / total + shares.pop("host")
    compute = _products(parts) / total
    past = {name: part for name, part in shares.items() if part >= _BOUNDS.get(name, _BOUND)}
    kind, share = max((past or shares).items(), key=lambda item: item[1])
    beside = [name for name in past if name != kind]
    if not past and compute > 0.5:
        beside = [kind] if share > 0.1 else []
        kind, share = "compute", compute
    text = _sentence(kind, share, step, parts) + _beside(beside, shares, step)
    if not memory.fits:
        text = f"memory-bound: it does not fit; were there room, {text}"
        kind = "memory"
    return Bottleneck(kind=kind, share=share, explanation=text)


#: kinds whose name is not what takes the time
_OTHERS = {"memory-bandwidth": "memory-bound kernels", "allocator": "the allocator's retries",
           "host": "the host", "optimizer": "the optimizer"}  # fmt: skip
#: kind -> the parts of the step that it is made of, as the reader sees them
_MADE_OF = {
    "compute": ("GEMM", "attention", "scans"), "communication": ("exposed comm",),
    "memory-bandwidth": ("other kernels",), "optimizer": ("optimizer",),
}  # fmt: skip


def _products(parts: dict[str, float]) -> float:
    """Seconds of what multiplies."""
    return sum(parts.get(kind, 0.0) for kind in ("gemm", "attention", "scan"))


def _beside(kinds: list[str], shares: dict[str, float], step: Step) -> str:
    """What else takes much of a step, the largest first; a clause, or nothing."""
    ranked = sorted(kinds, key=lambda name: -shares[name])
    told = [f"{_percent(name, shares[name], step)} goes to {_OTHERS.get(name, name)}"
            for name in ranked]  # fmt: skip
    return f"; another {' and '.join(told)}" if told else ""


def _percent(kind: str, share: float, step: Step) -> str:
    """A share as the parts of the step have it, so that a reader can add them up."""
    if kind not in _MADE_OF:
        return percent(share, 0)
    parts = told(step)
    return f"{sum(parts.get(name, 0) for name in _MADE_OF[kind])} %"


def _sentence(kind: str, share: float, step: Step, parts: dict[str, float]) -> str:
    said = _percent(kind, share, step)
    if kind == "compute":
        attention = parts.get("attention", 0.0) / step.time_s
        scans = ", scans" * ("scan" in parts)
        extra = f", attention alone {told(step)['attention']} %" if attention > 0.15 else ""
        return f"compute-bound: {said} of the step is matrix products{scans} and attention{extra}"
    if kind == "communication":
        where = next(iter(step.exposed), "collectives")
        return (
            f"communication-bound: for {said} of the step the GPU waits for collectives, "
            f"most of all {where}"
        )
    if kind == "memory-bandwidth":
        worst = max(STREAMED, key=lambda key: parts.get(key, 0.0))
        products = _products(parts)
        more = products > sum(parts.get(key, 0.0) for key in STREAMED)
        beside = f", beside {_percent('compute', products / step.time_s, step)} of products" * more
        return (
            f"memory-bandwidth-bound: {said} of the step is {worst} and other kernels that "
            f"move bytes rather than multiply{beside}"
        )
    if kind == "offload":
        return (
            f"offload-bound: for {said} of the step the GPU waits for copies to and from host "
            "memory and for the CPU"
        )
    if kind == "host":
        return f"launch-bound: for {said} of the step the GPU waits for the CPU to launch kernels"
    if kind == "allocator":
        return (
            f"allocator-bound: so close to capacity it frees its cache and asks again, {said} of "
            "the step"
        )
    return f"optimizer-bound: {said} of the step is the optimizer and gradient clipping"


def data_bottleneck(job: JobForecast | None, found: Bottleneck, memory_bytes: float) -> Bottleneck:
    """The bottleneck, or waiting for data where that takes more of the time.

    A step that waits for data gains nothing from faster kernels, so that the number of workers
    that cures it is then the only fix.
    """
    if job is None or found.kind == "memory":
        return found
    idle, stall, pipeline = job.stall.idle_share, job.stall, job.pipeline
    other = 0.0 if found.kind == "compute" else found.share * (1.0 - idle)
    if idle < max(_BOUND, other):
        return found
    text = f"data-bound: the GPUs wait {percent(idle, 0)} of the time for data; "
    needed = stall.workers_needed
    if needed is None:
        text += "storage delivers less than a step needs, whatever the number of workers"
        return Bottleneck("data", idle, text)
    text += f"{needed} loader workers per GPU instead of {pipeline.workers} would cure it"
    cure = f"{needed} loader workers per GPU"
    fix = Fix({"data.workers": needed}, cure, 1.0 - idle, memory_bytes, True)
    return Bottleneck("data", idle, text, (fix,))
