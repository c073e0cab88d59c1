"""Keys of a user's other files: of post-training, jobs of a plan, phases that are sized, prices."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import sim
from bench.silent.keys import MACHINE, Ended
from sim.errors import InputError

#: steps of post-training, by name
_TRAINED = {
    name: ("nodes=2", f"post_training={{algorithm: {name.partition(' ')[0]}, prompts: 128}}", *more)
    for name, more in {
        "grpo": (), "dpo": (), "ppo": (), "grpo apart": ("post_training.generation.gpus=8",),
    }.items()
}  # fmt: skip
_OF_STEPS: dict[str, Any] = {
    "post_training.prompts": 64, "post_training.samples": 4, "post_training.prompt_length": 1024,
    "post_training.completion.mean": 500, "post_training.completion.maximum": 2048,
    "post_training.updates": 2, "post_training.reference": False,
    "post_training.old_log_probs": False, "post_training.reward": "10 s",
    "post_training.offload": True, "post_training.generation.tensor_parallel": 4,
    "post_training.generation.max_sequences": 64, "post_training.generation.memory_share": 0.5,
    "post_training.generation.step_overhead": "10 ms", "post_training.generation.overlap": True,
    "parallelism.reshard_after_forward": False, "data.workers": 1, "checkpoint.interval": "60 s",
    "tokens": 1e6, "global_batch": 64, "gradient_accumulation": 4, "deadline": "1 h",
    "evaluation.tokens": 1e6, "reference": "copy", "compile": True, "micro_batch": 4,
}  # fmt: skip
_JOB = {"name": "a", "workload": "llama3-8b-sft", "nodes": 2}
_OF_JOBS: dict[str, Any] = {
    "name": "b", "workload": "mistral-7b-lora", "nodes": [1, 2], "arrival": "2 h",
    "deadline": "3 h", "count": 2, "every": "1 h", "set": {"tokens": 1e8}, "prioriti": 1,
}  # fmt: skip
_PHASE = {"name": "tokenise", "kind": "preprocess", "tokens": 2e10}
_OF_PHASES: dict[str, Any] = {
    "name": "b", "kind": "evaluate", "tokens": 1e10, "cores": 64, "price_per_hour": "5 USD",
    "core": 3,
}  # fmt: skip
_ROW = {"provider": "mine", "instance": "box", "gpu": "h100-sxm-80gb", "gpus_per_node": 8,
        "usd_per_gpu_hour": 2.0, "as_of": "2026-11-30"}  # fmt: skip
_OF_ROWS: dict[str, Any] = {
    "provider": "b", "instance": "b", "gpu": "h200-sxm-141gb", "gpus_per_node": 4,
    "usd_per_gpu_hour": 3.0, "as_of": "2026-01-01", "spot_usd_per_gpu_hour": 1.0,
    "region": "eu-north1", "residency": "EU", "source": "a list", "country": "NOR",
    "egress_usd_per_gb": 0.1, "storage_usd_per_gb_month": 0.1,
    "reserved_1y_usd_per_gpu_hour": 1.5, "reserved_3y_usd_per_gpu_hour": 1.2,
    "confidence": "unchecked", "currency": "EUR", "spot_usd_per_gpu_hr": 1.0,
}  # fmt: skip


def of_files() -> Iterator[Ended]:
    """What becomes of every key of these files."""
    for name, sets in _TRAINED.items():
        yield from _asked(name, {}, _OF_STEPS, lambda keys, sets=sets: _step(sets, keys))
    yield from _asked("a plan", _JOB, _OF_JOBS, _plan)
    yield from _asked("phases", _PHASE, _OF_PHASES, _sized)
    yield from _asked("prices", _ROW, _OF_ROWS, _priced)


def _asked(
    name: str, plain: Mapping[str, Any], keys: Mapping[str, Any],
    answer: Callable[[Mapping[str, Any]], str],
) -> Iterator[Ended]:  # fmt: skip
    before = answer(plain)
    for key, value in keys.items():
        try:
            after = answer({**plain, key: value})
        except InputError:
            how = "refused"
        else:
            how = "silent" if after == before else "moved"
        yield Ended(name, key, value, how)


def _step(sets: tuple[str, ...], keys: Mapping[str, Any]) -> str:
    more = [f"{key}={json.dumps(value)}" for key, value in keys.items()]
    return sim.posttrain(MACHINE, "llama3-8b-sft", overrides=[*sets, *more]).to_json()


def _plan(keys: Mapping[str, Any]) -> str:
    other = {"name": "z", "workload": "mistral-7b-lora", "nodes": 1, "count": 2}
    return sim.plan(MACHINE, {"jobs": [keys, other]}, replicas=0, overrides={"nodes": 2}).to_json()


def _sized(keys: Mapping[str, Any]) -> str:
    sets = {"phases": [dict(keys), {"name": "train", "kind": "train"}]}
    return sim.size("llama3-8b-lora", topologies=MACHINE, gpus=8, overrides=sets).to_json()


def _priced(keys: Mapping[str, Any]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "own.csv"
        path.write_text("\n".join([",".join(keys), ",".join(map(str, keys.values())), ""]))
        rows = sim.prices_list(prices=path)
        return rows.to_json().replace(folder, "")
