"""Units, hooks, collectives, kernels and Python calls that a data-parallel wrapper adds to a step.

One process stands for `RANKS`: the fake process group accepts every collective and does nothing.
A step has two micro-steps; the first under ``no_sync`` where the wrapper has it. Layer and rest
come from two depths, as in `modelling`.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from counting import Watch, again, counted
from modelling import prepare, stack
from torch.distributed.fsdp import FullyShardedDataParallel as Fsdp
from torch.distributed.fsdp import MixedPrecision, MixedPrecisionPolicy, fully_shard

RANKS = 8
PHASES = ("forward", "recompute", "backward")
CPU = torch.device("cpu")
#: whose Python functions count as the wrapper's
LIBRARIES = ("torch/distributed/", "torch/nn/parallel/", "deepspeed/")
#: functions that are named in a row: hooks, and what they do to a unit
HOOKS = {
    "_root_pre_forward", "_pre_forward", "_post_forward", "_pre_backward_hook",
    "_post_backward_hook", "_post_backward_reshard", "_post_backward_final_callback", "_unshard",
    "_reshard", "_register_post_backward_hook", "_register_pre_backward_hooks",
    "_prefetch_handle", "FlatParamHandle._use_unsharded_views",
    "FlatParamHandle._use_sharded_views", "FlatParamHandle.prepare_gradient_for_backward",
    "FSDPState._root_pre_forward", "FSDPState._pre_forward", "FSDPState._post_forward",
    "FSDPState._pre_backward", "FSDPState._root_post_backward_final_callback",
    "FSDPParamGroup.unshard", "FSDPParamGroup.wait_for_unshard", "FSDPParamGroup.reshard",
    "FSDPParamGroup.post_backward", "RegisterPostBackwardFunction.forward",
    "DistributedDataParallel._pre_forward", "DistributedDataParallel._post_forward",
}  # fmt: skip
#: what a device handle is asked for: CUDA calls of their own on a GPU
STREAMS = {
    "current_stream": "current", "StreamContext.__enter__": "switch",
    "Stream.wait_stream": "wait_stream", "Stream.wait_event": "wait_event",
    "Stream.record_event": "record", "Event.record": "record", "Event.wait": "wait_event",
    "Event.synchronize": "synchronize",
}  # fmt: skip


def wrap(model: Any, case: dict[str, Any]) -> Any:
    """The model as a trainer wraps it."""
    kind, layers = case["wrapper"], stack(model)
    if kind == "none":
        return model
    low = torch.bfloat16 if case["mixed_precision"] else None
    if kind == "ddp":
        return torch.nn.parallel.DistributedDataParallel(model)
    if kind == "fsdp2":
        policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32 if low else None)
        for layer in layers:
            fully_shard(layer, mp_policy=policy)
        fully_shard(model, mp_policy=policy)
        return model
    cls = type(layers[0])
    if case["policy"] == "peft":
        import os

        from peft.utils.other import fsdp_auto_wrap_policy

        os.environ["FSDP_TRANSFORMER_CLS_TO_WRAP"] = cls.__name__
        how = fsdp_auto_wrap_policy(model)
    else:
        from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

        how = functools.partial(transformer_auto_wrap_policy, transformer_layer_cls={cls})
    mixed = MixedPrecision(low, torch.float32, low) if low else None
    return Fsdp(
        model, auto_wrap_policy=how, mixed_precision=mixed, device_id=CPU,
        use_orig_params=case["use_orig_params"],
    )  # fmt: skip


def units(model: Any, kind: str) -> int:
    """Groups of parameters that are gathered or reduced together."""
    if kind == "fsdp1":
        return sum(m._handle is not None for m in Fsdp.fsdp_modules(model))
    if kind == "fsdp2":
        return sum(hasattr(m, "_get_fsdp_state") for m in model.modules())
    return 0


class Calls:
    """Python calls inside the wrapper's library, by phase, while a profiler is set."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.total: Counter[str] = Counter()
        self.hooks: dict[str, Counter[str]] = {}
        self.streams: dict[str, Counter[str]] = {}
        self.known: dict[Any, str | None] = {}  # code: name of a hook, "" of another, None foreign

    def __call__(self, frame: Any, event: str, _: Any) -> None:
        if event != "call" or not self.watch.phase:
            return
        code = frame.f_code
        if code not in self.known:
            own = any(part in code.co_filename for part in LIBRARIES)
            hook = code.co_qualname if code.co_qualname in HOOKS else ""
            if "torch/cpu/__init__" in code.co_filename and code.co_qualname in STREAMS:
                own, hook = True, STREAMS[code.co_qualname]
            self.known[code] = hook if own else None
        name = self.known[code]
        if name in STREAMS.values():
            self.streams.setdefault(self.watch.phase, Counter())[str(name)] += 1
        elif name is not None:
            self.total[self.watch.phase] += 1
            if name:
                self.hooks.setdefault(self.watch.phase, Counter())[name] += 1


@contextlib.contextmanager
def profiled(calls: Calls) -> Iterator[None]:
    """With `calls` told of every Python call."""
    sys.setprofile(calls)
    try:
        yield
    finally:
        sys.setprofile(None)


def ready(case: dict[str, Any], layers: int) -> tuple[Any, dict[str, torch.Tensor], Any]:
    """The wrapped model, a batch and the unwrapped layers."""
    model, batch = prepare(case, layers)
    inner = stack(model)
    return wrap(model, case), batch, inner


def micro(
    model: Any, batch: Any, case: dict[str, Any], last: bool, phase: Callable[..., None]
) -> None:
    """One micro-step: forward and backward, with the synchronisation that its place asks for."""
    kind = case["wrapper"]
    hold = not last and case["no_sync"]
    scope: Any = contextlib.nullcontext()
    if hold and kind in ("ddp", "fsdp1"):
        scope = model.no_sync()
    if kind == "fsdp2":
        model.set_requires_gradient_sync(not hold)
        model.set_is_last_backward(last)
    with scope:
        phase("forward")
        loss = model(**batch).loss
        phase("backward")
        loss.backward()
        phase("")


def play(case: dict[str, Any], layers: int) -> tuple[Watch, Calls, int]:
    """Two steps of two micro-steps and clipping, the second counted; phases ``last/forward``."""
    group(case["wrapper"])
    model, batch, inner = ready(case, layers)
    watch = Watch()
    calls = Calls(watch)
    again(watch, inner)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-3)
    with counted(watch):
        for step in range(2):
            for number, name in enumerate(("accumulating", "last")):

                def phase(part: str, where: str = name if step else "") -> None:
                    watch.phase = f"{where}/{part}" if where and part else ""

                with profiled(calls) if step else contextlib.nullcontext():
                    micro(model, batch, case, number == 1, phase)
            with profiled(calls) if step else contextlib.nullcontext():
                watch.phase = "clip/step" if step else ""
                if case["wrapper"] == "fsdp1":
                    model.clip_grad_norm_(1.0)
                else:
                    torch.nn.utils.clip_grad_norm_(trained, 1.0)
                watch.phase = ""
            optimizer.step()
            optimizer.zero_grad()
    return watch, calls, units(model, case["wrapper"])


#: what a bare model's counts do not depend on
WRAPPING = ("wrapper", "policy", "mixed_precision", "use_orig_params", "no_sync")


@functools.lru_cache
def bare(key: tuple[tuple[str, Any], ...], layers: int) -> Watch:
    """The same model without a wrapper."""
    return play(dict(key) | {"wrapper": "none", "no_sync": False}, layers)[0]


def part(two: Counter[str] | int, three: Counter[str] | int, rest: bool) -> Any:
    """What a layer adds, or what two leave over."""
    if isinstance(two, int) or isinstance(three, int):
        return 3 * two - 2 * three if rest else three - two
    each = {k: part(two[k], three[k], rest) for k in sorted(two | three)}
    return {k: v for k, v in each.items() if v}


def record(case: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows: what a layer and the rest add to each kind of micro-step, and to clipping."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        key = tuple((k, v) for k, v in case.items() if k not in WRAPPING)
        played = [play(case, n) for n in (2, 3)]
        plain = [bare(key, n) for n in (2, 3)]
    (two, calls_two, units_two), (three, calls_three, units_three) = played
    rows = []
    for where in ("accumulating", "last", "clip"):
        row: dict[str, Any] = {"micro_step": where}
        for name, rest in (("layer", False), ("rest", True)):
            found = row[name] = {"units": part(units_two, units_three, rest)}
            for phase in ("step",) if where == "clip" else PHASES:
                at, none = f"{where}/{phase}", Counter[str]()
                mine, theirs = (
                    Counter(part(a.kernels.get(at, none), b.kernels.get(at, none), rest))
                    for a, b in ((two, three), plain)
                )
                own = {
                    k: mine[k] - theirs[k] for k in sorted(mine | theirs) if mine[k] != theirs[k]
                }
                seen = {
                    "python_calls": part(calls_two.total[at], calls_three.total[at], rest),
                    "hooks": part(
                        calls_two.hooks.get(at, none), calls_three.hooks.get(at, none), rest
                    ),
                    "streams": part(
                        calls_two.streams.get(at, none), calls_three.streams.get(at, none), rest
                    ),
                    "collectives": part(
                        two.collectives.get(at, none), three.collectives.get(at, none), rest
                    ),
                    "kernels": sum(own.values()),
                    "operators": part(two.operators[at], three.operators[at], rest)
                    - part(plain[0].operators[at], plain[1].operators[at], rest),
                    "names": own,
                }
                if any(seen.values()):
                    found[phase] = seen
        rows.append(case | row)
    return rows


def cases() -> list[dict[str, Any]]:
    """What is recorded."""
    plain: dict[str, Any] = {
        "model": "llama", "attention": "flash_attention_2", "method": "full", "adapter_dtype": "",
        "dropout": 0.0, "master": "bf16", "autocast": False, "checkpointing": "nonreentrant",
        "padding": False, "batch": 2, "wrapper": "fsdp1", "policy": "blocks",
        "mixed_precision": False, "use_orig_params": True, "no_sync": True,
    }  # fmt: skip
    lora = plain | {"method": "lora", "adapter_dtype": "fp32", "dropout": 0.1, "policy": "peft"}
    mixed = {"master": "fp32", "mixed_precision": True}
    found = [
        plain,
        plain | {"checkpointing": "none"},
        plain | {"checkpointing": "reentrant"},
        plain | {"no_sync": False},
        plain | mixed,
        lora,
        lora | {"checkpointing": "reentrant"},
        lora | {"checkpointing": "none"},
        lora | {"adapter_dtype": "bf16"},
        lora | {"adapter_dtype": "bf16", "policy": "blocks"},
        lora | {"no_sync": False},
        plain | {"wrapper": "fsdp2"},
        plain | {"wrapper": "fsdp2"} | mixed,
        plain | {"wrapper": "fsdp2", "checkpointing": "none"},
        lora | {"wrapper": "fsdp2", "adapter_dtype": "bf16", "policy": "blocks"},
        plain | {"wrapper": "ddp"},
        lora | {"wrapper": "ddp", "policy": "blocks"},
    ]
    return found


def group(kind: str) -> None:
    """A group of `RANKS`, all but this one imagined; of one process for DDP."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    want = "gloo" if kind == "ddp" else "fake"
    if dist.is_initialized():
        if dist.get_backend() == want:
            return
        dist.destroy_process_group()
    if want == "gloo":
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    else:
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=RANKS)
