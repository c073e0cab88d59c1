"""Measure training steps of Hugging Face models on the NVIDIA GPU that is present.

    python bench/gpu/measure_steps.py jobs.json -o steps.jsonl --seconds 300
    python bench/gpu/measure_steps.py --rehearse        # tiny models on a CPU, to try the script

One line of JSON a job: seconds of each step, when the host had submitted it, retries and peaks of
the caching allocator, clock and power. Before the jobs it writes what the machine is and what
`cudaMalloc`, `cudaFree`, launches and copies cost.

A job is an object: `model` (a name in MODELS), `method` (full, lora), `strategy` (none, fsdp1,
fsdp2), `ranks`, `sequence`, `batch` (sequences a GPU and micro-step), `accumulation`,
`checkpointing` (false, true, "reentrant"), `cap_gib` (what the allocator may take: it frees its
cache and asks again as a smaller GPU would make it), `trainer` (false, true: Hugging Face's Trainer
runs the loop, without FSDP), `experts` (how transformers runs a mixture's), `cores` (of the
CPU that the process may use), `steps`.

With several ranks this process is rank 0 of a *fake* process group (no peers; FakeStore). Hooks,
streams, events, copies and the allocator are the real ones; a collective is a copy within the GPU,
in its stream: what is measured is a rank whose links are as quick as its memory.
Importing this file needs neither PyTorch nor a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

MODELS: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
    },
    "llama-3.2-1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "tie_word_embeddings": True,
    },
    "llama-3.1-8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "mistral-7b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 32000,
    },
    "llama-2-13b": {
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "num_key_value_heads": 40,
        "vocab_size": 32000,
    },
    "qwen3-30b-a3b": {
        "kind": "qwen3_moe",
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "vocab_size": 151936,
    },
}
DEFAULTS: dict[str, Any] = {
    "method": "full",
    "strategy": "none",
    "ranks": 1,
    "batch": 1,
    "accumulation": 1,
    "checkpointing": True,
    "cap_gib": None,
    "trainer": False,
    "experts": None,
    "cores": None,
    "steps": 4,
}
COUNTERS = ("num_alloc_retries", "num_ooms", "num_device_alloc", "num_device_free")


def local_collectives(dist: Any) -> None:
    """Make the collectives that FSDP calls copies within this GPU, in the calling stream."""

    def gather(*args: Any, **kwargs: Any) -> None:
        output, source = args[:2] or (kwargs["output_tensor"], kwargs["input_tensor"])
        source = source.detach().reshape(-1)
        parts = output.detach().view(-1, source.numel())
        own = source.data_ptr() == output.data_ptr()  # FSDP2 gathers in place
        parts[int(own) :].copy_(source)

    def scatter(output: Any, input: Any, *args: Any, **kwargs: Any) -> None:
        output.detach().reshape(-1).copy_(input.detach().reshape(-1)[: output.numel()])

    for name in ("all_gather_into_tensor", "_all_gather_base", "all_gather_single"):
        if hasattr(dist, name):
            setattr(dist, name, gather)
    for name in ("reduce_scatter_tensor", "_reduce_scatter_base", "reduce_scatter_single"):
        if hasattr(dist, name):
            setattr(dist, name, scatter)
    dist.all_reduce = lambda *args, **kwargs: None


def fake_group(dist: Any, ranks: int) -> None:
    """Be rank 0 of `ranks` without peers."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)


class Job:
    """One job on one device: a model with its optimizer, wrapped as the strategy wraps it."""

    def __init__(self, torch: Any, asked: dict[str, Any], device: str) -> None:
        self.torch, self.device = torch, device
        self.asked = {**DEFAULTS, **asked}
        self.model = self._wrapped(self._model())
        learning = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(learning, lr=1e-6, foreach=True)
        self.vocabulary = MODELS[self.asked["model"]]["vocab_size"]

    def _model(self) -> Any:
        import transformers

        said = dict(MODELS[self.asked["model"]])
        kind = said.pop("kind", "llama")
        config = transformers.AutoConfig.for_model(
            kind, **said, max_position_embeddings=131072, attn_implementation="sdpa"
        )
        if self.asked["experts"]:
            config._experts_implementation = self.asked["experts"]
        self.torch.set_default_dtype(self.torch.bfloat16)
        try:
            with self.torch.device(self.device):
                model = transformers.AutoModelForCausalLM.from_config(config)
        finally:
            self.torch.set_default_dtype(self.torch.float32)
        model.config.use_cache = False
        if self.asked["method"] == "lora":
            from peft import LoraConfig, get_peft_model

            adapters = LoraConfig(
                r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
            )
            model = get_peft_model(model, adapters, autocast_adapter_dtype=False)
        if self.asked["checkpointing"]:
            reentrant = self.asked["checkpointing"] == "reentrant"
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            if self.asked["method"] == "lora":
                model.enable_input_require_grads()
        return model.train()

    def _wrapped(self, model: Any) -> Any:
        if self.asked["strategy"] == "none":
            return model
        import torch.distributed as dist

        fake_group(dist, self.asked["ranks"])
        layers = type(next(m for m in model.modules() if hasattr(m, "layers")).layers[0])
        if self.asked["strategy"] == "fsdp2":
            from torch.distributed.fsdp import fully_shard

            for module in model.modules():
                if isinstance(module, layers):
                    fully_shard(module)
            return fully_shard(model)
        from torch.distributed.fsdp import BackwardPrefetch, FullyShardedDataParallel
        from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

        if self.asked["method"] == "lora":
            from peft.utils.other import fsdp_auto_wrap_policy

            os.environ["FSDP_TRANSFORMER_CLS_TO_WRAP"] = layers.__name__
            policy: Any = fsdp_auto_wrap_policy(model)
        else:
            from functools import partial

            policy = partial(transformer_auto_wrap_policy, transformer_layer_cls={layers})
        return FullyShardedDataParallel(
            model,
            auto_wrap_policy=policy,
            use_orig_params=True,
            backward_prefetch=BackwardPrefetch.BACKWARD_PRE,
            limit_all_gathers=True,
            device_id=self.torch.device(self.device, 0 if self.device == "cuda" else None),
        )

    def micro_step(self) -> list[float]:
        """Forward and backward of one micro-batch; when it began, and when each was submitted."""
        stamps = [time.perf_counter()]
        shape = (self.asked["batch"], self.asked["sequence"])
        tokens = self.torch.randint(0, self.vocabulary, shape, device=self.device)
        loss = self.model(input_ids=tokens, labels=tokens).loss
        stamps.append(time.perf_counter())
        (loss / self.asked["accumulation"]).backward()
        return [*stamps, time.perf_counter()]

    def step(self) -> dict[str, float]:
        """Seconds of one optimizer step, and those after which the host had submitted its parts."""
        synchronize(self.torch, self.device)
        start = time.perf_counter()
        forward = backward = 0.0
        count = self.asked["accumulation"]
        for i in range(count):
            with self._unsynced(i + 1 < count):
                began, halfway, ended = self.micro_step()
            forward, backward = forward + halfway - began, backward + ended - halfway
        if self.asked["strategy"] == "fsdp1":
            self.model.clip_grad_norm_(1.0)
        elif self.asked["strategy"] == "none":
            self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        submitted = time.perf_counter() - start
        synchronize(self.torch, self.device)
        return {
            "forward_s": forward,
            "backward_s": backward,
            "submitted_s": submitted,
            "step_s": time.perf_counter() - start,
        }

    def _unsynced(self, quiet: bool) -> Any:
        if quiet and self.asked["strategy"] == "fsdp1":
            return self.model.no_sync()
        if self.asked["strategy"] == "fsdp2":
            self.model.set_requires_gradient_sync(not quiet)
        return contextlib.nullcontext()


def synchronize(torch: Any, device: str) -> None:
    """Wait for the GPU, where there is one."""
    if device == "cuda":
        torch.cuda.synchronize()


def with_trainer(torch: Any, asked: dict[str, Any], device: str) -> list[dict[str, float]]:
    """Steps of Hugging Face's Trainer on one GPU, as its callbacks see them."""
    import transformers

    job = Job(torch, {**asked, "strategy": "none"}, device)
    stamps: list[float] = []

    class Clock(transformers.TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            synchronize(torch, device)
            stamps.append(time.perf_counter())

    size = job.asked["batch"] * job.asked["accumulation"] * (job.asked["steps"] + 1)
    rows = [
        {"input_ids": row, "labels": row}
        for row in torch.randint(0, job.vocabulary, (size, job.asked["sequence"]))
    ]
    said = transformers.TrainingArguments(
        output_dir="trainer_output",
        per_device_train_batch_size=job.asked["batch"],
        gradient_accumulation_steps=job.asked["accumulation"],
        max_steps=job.asked["steps"] + 1,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=device == "cpu",
    )
    transformers.Trainer(job.model, said, train_dataset=rows, callbacks=[Clock()]).train()
    spans = [b - a for a, b in itertools.pairwise(stamps)]
    return [{"step_s": t} for t in spans]


def measured(torch: Any, asked: dict[str, Any], device: str) -> dict[str, Any]:
    """One job's line; an error, out of memory too, is said in it."""
    cuda = torch.cuda
    line: dict[str, Any] = {**DEFAULTS, **asked}
    if device == "cuda":
        cuda.empty_cache()
        cuda.reset_peak_memory_stats()
        total = cuda.get_device_properties(0).total_memory
        cap = line["cap_gib"]
        cuda.set_per_process_memory_fraction(min(1.0, cap * 2**30 / total) if cap else 1.0)
    if line["cores"]:
        os.sched_setaffinity(0, range(line["cores"]))
        torch.set_num_threads(line["cores"])
    before = counters(torch, device)
    began = time.perf_counter()
    try:
        if line["trainer"]:
            steps = with_trainer(torch, asked, device)
            line["setup_s"] = time.perf_counter() - began - sum(t["step_s"] for t in steps)
        else:
            job = Job(torch, asked, device)
            line["setup_s"] = time.perf_counter() - began
            steps = []
            line["by_step"] = []
            for _ in range(job.asked["steps"]):
                then = counters(torch, device)
                steps.append(job.step())
                now = counters(torch, device)
                line["by_step"].append({k: now[k] - then[k] for k in now})
        for part in steps[0]:
            line[part] = [round(step[part], 5) for step in steps]
    except Exception as error:  # what a job dies of is a result
        line["error"] = f"{type(error).__name__}: {str(error)[:300]}"
    now = counters(torch, device)
    line["counters"] = {k: now[k] - before[k] for k in now}
    if device == "cuda":
        line["peak_allocated"] = cuda.max_memory_allocated()
        line["peak_reserved"] = cuda.max_memory_reserved()
        line["smi"] = smi("clocks.sm,power.draw,temperature.gpu")
    return line


def counters(torch: Any, device: str) -> dict[str, int]:
    """The caching allocator's counts so far."""
    if device != "cuda":
        return {}
    said = torch.cuda.memory_stats()
    return {name: int(said.get(name, 0)) for name in COUNTERS}


def smi(fields: str) -> str:
    """What nvidia-smi says of these fields."""
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)[:200]


def clocked(torch: Any, run: Callable[[], object], repeats: int = 1) -> float:
    """Seconds of one `run`, the GPU idle before and after."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def prices(torch: Any) -> Iterator[dict[str, Any]]:
    """cudaMalloc and cudaFree by size and count, launches, and copies over PCIe."""
    cuda = torch.cuda
    for mib, count in (
        (2, 64),
        (20, 64),
        (200, 64),
        (1024, 32),
        (4096, 16),
        (16384, 4),
        (65536, 1),
    ):
        for attempt in range(3):
            cuda.empty_cache()
            held: list[int] = []
            grow = clocked(
                torch,
                lambda held=held, mib=mib: held.append(cuda.caching_allocator_alloc(mib << 20)),
                count,
            )
            for pointer in held:
                cuda.caching_allocator_delete(pointer)
            free = clocked(torch, cuda.empty_cache) / count
            yield {
                "what": "segment",
                "MiB": mib,
                "count": count,
                "attempt": attempt,
                "malloc_us": grow * 1e6,
                "free_us": free * 1e6,
            }
    small = torch.zeros(8, device="cuda")
    linear = torch.nn.Linear(8, 8, device="cuda")
    batch = torch.zeros(1, 8, device="cuda", requires_grad=True)
    cases: dict[str, Callable[[], object]] = {
        "add_ (in place)": lambda: small.add_(1.0),
        "add (allocates)": lambda: small + 1.0,
        "nn.Linear under autograd": lambda: linear(batch),
        ".item()": small[0].item,
    }
    for name, run in cases.items():
        clocked(torch, run, 200)
        start = time.perf_counter()
        for _ in range(2000):
            run()
        host = (time.perf_counter() - start) / 2000
        torch.cuda.synchronize()
        yield {"what": "launch", "of": name, "host_us": host * 1e6}

    def nothing() -> None:
        pass

    start = time.perf_counter()
    for _ in range(1_000_000):
        nothing()
    yield {"what": "python call", "host_us": (time.perf_counter() - start)}
    size = 2 << 30
    there = torch.empty(size, dtype=torch.uint8, device="cuda")
    there.fill_(1)
    for kind, here in (
        ("pinned", torch.ones(size, dtype=torch.uint8).pin_memory()),
        ("pageable", torch.ones(size, dtype=torch.uint8)),
    ):
        quick = kind == "pinned"
        up = clocked(torch, lambda h=here, q=quick: there.copy_(h, non_blocking=q), 3)
        down = clocked(torch, lambda h=here, q=quick: h.copy_(there, non_blocking=q), 3)
        yield {
            "what": "copy",
            "memory": kind,
            "h2d_GBps": size / up / 1e9,
            "d2h_GBps": size / down / 1e9,
        }
    yield {"what": "fill", "GBps": size / clocked(torch, lambda: there.fill_(2), 20) / 1e9}


def machine(torch: Any) -> dict[str, Any]:
    """GPU, driver, CPU and library versions."""
    import transformers

    cpu = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "gpu": smi(
            "name,driver_version,power.limit,clocks.max.sm,pcie.link.gen.current,pcie.link.width.current"
        ),
        "cpu": cpu[0] if cpu else platform.processor(),
        "cores": len(cpu),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def apart(what: str, options: Any, lines: Callable[[], Iterable[dict[str, Any]]]) -> None:
    """Write lines from a process of its own, so that a job finds the GPU's memory empty."""
    output: Path | None = options.output

    def write() -> None:
        with output.open("a") if output else contextlib.nullcontext(sys.stdout) as out:
            for line in lines():
                out.write(json.dumps({"line": what, **line}) + "\n")
                out.flush()

    if options.one_process:
        write()
        return
    child = multiprocessing.get_context("fork").Process(target=write)
    child.start()
    child.join()


def rehearsal() -> list[dict[str, Any]]:
    """Every road of a job, on a tiny model."""
    tiny = {"model": "tiny", "sequence": 16, "steps": 2}
    return [
        tiny,
        {**tiny, "method": "lora", "checkpointing": "reentrant"},
        {**tiny, "strategy": "fsdp1", "ranks": 4, "accumulation": 2},
        {**tiny, "strategy": "fsdp1", "ranks": 2, "method": "lora", "accumulation": 2},
        {**tiny, "strategy": "fsdp2", "ranks": 4, "accumulation": 2},
        {**tiny, "trainer": True, "accumulation": 2},
    ]


def main() -> int:
    """Run the jobs in order within a time budget; each line is on disk when its job ends."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("jobs", type=Path, nargs="?", help="a list of jobs, JSON")
    parser.add_argument("-o", "--output", type=Path, help="where lines go (standard output)")
    parser.add_argument("--seconds", type=float, default=600.0, help="no job starts after this")
    parser.add_argument("--no-prices", action="store_true", help="jobs alone")
    parser.add_argument("--one-process", action="store_true", help="where a fork finds no GPU")
    parser.add_argument("--rehearse", action="store_true", help="tiny models on a CPU")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    if not options.rehearse and options.jobs is None:
        parser.error("give a list of jobs, or --rehearse")
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # a fork must find CUDA untouched
    try:
        import peft  # noqa: F401  imported once, before the forks
        import torch
        import torch.distributed as dist
        import torch.distributed.fsdp
        import transformers.models.llama.modeling_llama  # noqa: F401
    except ImportError:
        sys.stderr.write("this script needs PyTorch, transformers and peft\n")
        return 2
    device = "cpu" if options.rehearse else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        sys.stderr.write("no NVIDIA GPU is visible to PyTorch\n")
        return 2
    local_collectives(dist)
    jobs = rehearsal() if options.rehearse else json.loads(options.jobs.read_text())
    apart("machine", options, lambda: [machine(torch)])
    if device == "cuda" and not options.no_prices:
        apart("price", options, lambda: prices(torch))
    for asked in jobs:
        if time.monotonic() > end:
            sys.stderr.write(f"budget used, left out from {json.dumps(asked)} on\n")
            break
        apart("job", options, lambda a=asked: [measured(torch, a, device)])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
