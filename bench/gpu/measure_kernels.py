"""Measure GEMM, attention and element-wise kernels on the NVIDIA GPU that is present.

    python bench/gpu/measure_kernels.py -o results --seconds 300

Writes ``gemm.csv``, ``attention.csv`` and ``nongemm.csv`` with the columns of
``sim/data/measured/gemm_efficiency.csv`` (per shape rather than per band),
``attention_kernels.csv`` and ``kernels_nongemm.csv``, plus ``machine.json`` (GPU, clocks, power,
versions). Needs PyTorch with CUDA; FlashAttention is measured where installed. Importing this file
needs neither.

Each point: warm-up, then as many repeats as fill `--point` seconds, timed by CUDA events around
the whole run with operands rotating through more memory than the L2 holds (products from a CUDA
graph, so that launches don't count); random normal operands
(zeros draw less power and flatter the clock). ``--sustained`` first heats the GPU with products for
30 s, as a training step does, so that clocks are the sustained ones.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SIDES = (1024, 2048, 4096, 5120, 8192, 14336)
ROWS = (64, 256, 1024, 4096, 8192, 16384, 32768)
SEQUENCES = (512, 1024, 2048, 4096, 8192, 16384)
GEMM_COLUMNS = (
    "gpu",
    "dtype",
    "peak_dense_TFLOPs",
    "m",
    "n",
    "k",
    "layout",
    "TFLOPs",
    "latency_us",
    "source",
)
ATTENTION_COLUMNS = (
    "source",
    "row_id",
    "gpu",
    "impl",
    "dtype",
    "head_dim",
    "seqlen",
    "batch",
    "n_heads",
    "causal",
    "pass",
    "tflops",
    "time_ms",
    "notes",
)
NONGEMM_COLUMNS = (
    "source",
    "kernel_name",
    "kernel_provider",
    "kernel_operation_mode",
    "metric_name",
    "metric_unit",
    "x_name",
    "x_label",
    "x_value",
    "y_value_50",
    "y_value_20",
    "y_value_80",
    "extra_benchmark_config_str",
    "gpu_name",
    "timestamp",
    "liger_version",
)


class Bench:
    """Times GPU work."""

    def __init__(self, torch: Any, point_s: float) -> None:
        self.torch, self.point_s = torch, point_s
        self.l2 = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 64 << 20)

    def seconds(self, run: Callable[[int], object]) -> float:
        """Mean time of `run(i)`; `i` lets it rotate through operands."""
        for i in range(3):
            run(i)
        once = self._timed(run, 3)
        return self._timed(run, max(5, min(10_000, int(self.point_s / max(once, 1e-7)))))

    def kernel_seconds(self, run: Callable[[int], object], repeats: int = 10) -> float:
        """The same from a CUDA graph, so that short kernels are not timed by their launches."""
        cuda = self.torch.cuda
        for i in range(3):
            run(i)
        graph = cuda.CUDAGraph()
        with cuda.graph(graph):
            for i in range(repeats):
                run(i)
        return self.seconds(lambda i: graph.replay()) / repeats

    def _timed(self, run: Callable[[int], object], repeats: int) -> float:
        cuda = self.torch.cuda
        start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        cuda.synchronize()
        start.record()
        for i in range(repeats):
            run(i)
        end.record()
        cuda.synchronize()
        return start.elapsed_time(end) * 1e-3 / repeats

    def copies(self, nbytes: int) -> int:
        """How many sets of operands outgrow the L2 twice over."""
        return max(1, min(16, -(-2 * self.l2 // max(nbytes, 1))))


def gemms(bench: Bench, gpu: str) -> Iterator[dict[str, object]]:
    """Products in the three layouts of a linear layer: forward, dgrad, wgrad."""
    torch = bench.torch
    shapes = list(itertools.product(ROWS, SIDES, SIDES))
    random.Random(0).shuffle(shapes)  # a table that the budget cuts short is thin, not lopsided
    for m, n, k in shapes:
        count = bench.copies(2 * (m * k + k * n + m * n))
        if 2 * count * (m * k + k * n + m * n) > torch.cuda.mem_get_info()[0] // 2:
            continue
        x = [torch.randn(m, k, device="cuda", dtype=torch.bfloat16) for _ in range(count)]
        w = [torch.randn(n, k, device="cuda", dtype=torch.bfloat16) for _ in range(count)]
        g = [torch.randn(m, n, device="cuda", dtype=torch.bfloat16) for _ in range(count)]
        layouts = {
            "forward": lambda i, x=x, w=w, c=count: torch.mm(x[i % c], w[i % c].t()),
            "dgrad": lambda i, g=g, w=w, c=count: torch.mm(g[i % c], w[i % c]),
            "wgrad": lambda i, g=g, x=x, c=count: torch.mm(g[i % c].t(), x[i % c]),
        }
        for layout, run in layouts.items():
            t = bench.kernel_seconds(run, _repeats(m, n, k))
            yield {
                "gpu": gpu,
                "dtype": "bfloat16",
                "peak_dense_TFLOPs": "",
                "m": m,
                "n": n,
                "k": k,
                "layout": layout,
                "TFLOPs": round(2 * m * n * k / t * 1e-12, 2),
                "latency_us": round(t * 1e6, 2),
                "source": "bench/gpu/measure_kernels.py",
            }
        yield from _fp8(bench, gpu, m, n, k)


def _repeats(m: int, n: int, k: int) -> int:
    """Products a graph: ten, or fewer where one takes about a millisecond."""
    return max(1, min(10, int(2e12 / (2 * m * n * k))))


def _fp8(bench: Bench, gpu: str, m: int, n: int, k: int) -> Iterator[dict[str, object]]:
    torch = bench.torch
    if torch.cuda.get_device_capability() < (8, 9) or not hasattr(torch, "float8_e4m3fn"):
        return
    count = bench.copies(m * k + k * n + 2 * m * n)
    x = [torch.randn(m, k, device="cuda").to(torch.float8_e4m3fn) for _ in range(count)]
    w = [torch.randn(n, k, device="cuda").to(torch.float8_e4m3fn) for _ in range(count)]
    one = torch.ones((), device="cuda")

    def run(i: int) -> object:
        return torch._scaled_mm(
            x[i % count],
            w[i % count].t(),
            scale_a=one,
            scale_b=one,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )

    try:
        t = bench.kernel_seconds(run, _repeats(m, n, k))
    except (RuntimeError, TypeError) as error:
        sys.stderr.write(f"fp8 {m} {n} {k}: {error}\n")
        return
    yield {
        "gpu": gpu,
        "dtype": "fp8",
        "peak_dense_TFLOPs": "",
        "m": m,
        "n": n,
        "k": k,
        "layout": "forward",
        "TFLOPs": round(2 * m * n * k / t * 1e-12, 2),
        "latency_us": round(t * 1e6, 2),
        "source": "bench/gpu/measure_kernels.py",
    }


def attentions(bench: Bench, gpu: str) -> Iterator[dict[str, object]]:
    """Causal attention of 16k tokens and 2048 channels, forward and backward."""
    torch = bench.torch
    for impl, call in _implementations(torch).items():
        for dim in (64, 128, 256):
            heads = 2048 // dim
            for s in SEQUENCES:
                batch = max(1, 16384 // s)
                q, k, v = (
                    torch.randn(
                        batch,
                        heads,
                        s,
                        dim,
                        device="cuda",
                        dtype=torch.bfloat16,
                        requires_grad=True,
                    )
                    for _ in range(3)
                )
                flops = 4 * batch * heads * s * s * dim / 2
                try:
                    forward = bench.seconds(lambda i, q=q, k=k, v=v, call=call: call(q, k, v))
                    out = call(q, k, v)
                    grad = torch.randn_like(out)
                    backward = bench.seconds(
                        lambda i, out=out, grad=grad, q=q, k=k, v=v: torch.autograd.grad(
                            out, (q, k, v), grad, retain_graph=True
                        )
                    )
                except RuntimeError as error:
                    sys.stderr.write(f"{impl} {dim} {s}: {error}\n")
                    continue
                for name, t, work in (("fwd", forward, flops), ("bwd", backward, 2.5 * flops)):
                    yield {
                        "source": "bench/gpu/measure_kernels.py",
                        "row_id": f"{impl}-d{dim}-{s}-{name}",
                        "gpu": gpu,
                        "impl": impl,
                        "dtype": "bf16",
                        "head_dim": dim,
                        "seqlen": s,
                        "batch": batch,
                        "n_heads": heads,
                        "causal": True,
                        "pass": name,
                        "tflops": round(work / t * 1e-12, 2),
                        "time_ms": round(t * 1e3, 4),
                        "notes": "FLOPs 4 s^2 d h b / 2, backward 2.5x",
                    }


def _implementations(torch: Any) -> dict[str, Callable[..., Any]]:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention as sdpa

    def backend(kind: Any) -> Callable[..., Any]:
        def call(q: Any, k: Any, v: Any) -> Any:
            with sdpa_kernel(kind):
                return sdpa(q, k, v, is_causal=True)

        return call

    found = {
        "FA2": backend(SDPBackend.FLASH_ATTENTION),
        "cuDNN": backend(SDPBackend.CUDNN_ATTENTION),
        "Pytorch": backend(SDPBackend.MATH),
    }
    try:
        from flash_attn_interface import flash_attn_func  # FlashAttention-3
    except ImportError:
        return found

    def flash3(q: Any, k: Any, v: Any) -> Any:
        out = flash_attn_func(*(x.transpose(1, 2) for x in (q, k, v)), causal=True)
        return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)

    return {**found, "FA3": flash3}


def elementwise(bench: Bench, gpu: str) -> Iterator[dict[str, object]]:
    """Norms, RoPE, gates, losses, copies and the optimizer, eager and compiled."""
    torch = bench.torch
    f = torch.nn.functional
    tokens = 8192

    def rms(x: Any, w: Any) -> Any:
        y = x.float()
        return w * (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)

    def rope(x: Any, c: Any) -> Any:
        a, b = x.chunk(2, -1)
        return x * c + torch.cat((-b, a), -1) * c

    def cross_entropy(x: Any) -> Any:
        return f.cross_entropy(x.float(), torch.zeros(x.shape[0], dtype=torch.long, device="cuda"))

    bf16 = {"device": "cuda", "dtype": torch.bfloat16}
    for width in (1024, 2048, 4096, 8192, 16384):
        x = torch.randn(tokens, width, **bf16, requires_grad=True)
        y = torch.randn(tokens, width, **bf16, requires_grad=True)
        w = torch.ones(width, **bf16, requires_grad=True)
        heads = torch.randn(1, tokens, width // 128, 128, **bf16).transpose(1, 2).requires_grad_()
        cos = torch.randn(tokens, 128, **bf16)
        cases: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
            "rms_norm": (rms, (x, w)),
            "layer_norm": (lambda a, b: f.layer_norm(a, (a.shape[-1],), b, None), (x, w)),
            "swiglu_gate": (lambda a, b: f.silu(a) * b, (x, y)),
            "gelu": (f.gelu, (x,)),
            "residual_add": (lambda a, b: a + b, (x, y)),
            "rope": (rope, (heads, cos)),
            "cast_fp32": (lambda a: a.float(), (x,)),
            "cross_entropy": (
                cross_entropy,
                (torch.randn(2048, 8 * width, **bf16, requires_grad=True),),
            ),
        }
        for name, (call, inputs) in cases.items():
            for provider, run in (("torch", call), ("torch_compile", torch.compile(call))):
                yield from _case(bench, gpu, name, provider, run, inputs, width)
    yield from _optimizer(bench, gpu)


def _case(
    bench: Bench,
    gpu: str,
    name: str,
    provider: str,
    run: Callable[..., Any],
    inputs: tuple[Any, ...],
    width: int,
) -> Iterator[dict[str, object]]:
    torch = bench.torch
    leaves = [t for t in inputs if t.requires_grad]
    try:
        out = run(*inputs)
        grad = torch.randn_like(out)
        times = {
            "forward": bench.seconds(lambda i: run(*inputs)),
            "backward": bench.seconds(
                lambda i: torch.autograd.grad(out, leaves, grad, retain_graph=True)
            ),
        }
    except RuntimeError as error:
        sys.stderr.write(f"{name} {provider} {width}: {error}\n")
        return
    config = {
        "T": inputs[0].shape[0] if name != "rope" else inputs[0].shape[2],
        "dtype": "torch.bfloat16",
    }
    for mode, t in times.items():
        yield _row(
            gpu,
            name,
            provider,
            mode,
            "H" if name != "cross_entropy" else "V",
            inputs[0].shape[-1],
            t,
            config,
        ) | {"x_value": width if name != "cross_entropy" else 8 * width}


def _optimizer(bench: Bench, gpu: str) -> Iterator[dict[str, object]]:
    torch = bench.torch
    for numel in (1 << 24, 1 << 27, 1 << 29):
        for provider in ("fused", "foreach"):
            parameters = [
                torch.randn(numel // 16, device="cuda", requires_grad=True) for _ in range(16)
            ]
            for p in parameters:
                p.grad = torch.randn_like(p)
            adam = torch.optim.AdamW(
                parameters, fused=provider == "fused", foreach=provider == "foreach"
            )
            t = bench.seconds(lambda i, adam=adam: adam.step())
            yield _row(
                gpu,
                "adamw",
                provider,
                "step",
                "N",
                numel,
                t,
                {"dtype": "torch.float32", "tensors": 16},
            )
            clip = bench.seconds(
                lambda i, p=parameters: torch.nn.utils.clip_grad_norm_(p, 1.0, foreach=True)
            )
            yield _row(
                gpu,
                "clip_grad_norm",
                "foreach",
                "step",
                "N",
                numel,
                clip,
                {"dtype": "torch.float32"},
            )


def _row(
    gpu: str,
    name: str,
    provider: str,
    mode: str,
    x_name: str,
    x: int,
    seconds: float,
    config: dict[str, object],
) -> dict[str, object]:
    return {
        "source": "bench/gpu/measure_kernels.py",
        "kernel_name": name,
        "kernel_provider": provider,
        "kernel_operation_mode": mode,
        "metric_name": "speed",
        "metric_unit": "ms",
        "x_name": x_name,
        "x_label": x_name,
        "x_value": x,
        "y_value_50": seconds * 1e3,
        "y_value_20": "",
        "y_value_80": "",
        "extra_benchmark_config_str": json.dumps(config),
        "gpu_name": gpu,
        "timestamp": time.strftime("%Y-%m-%d %H:%M:%S"),
        "liger_version": "",
    }


def machine(torch: Any) -> dict[str, object]:
    """GPU, driver, clocks and power, as nvidia-smi says them, and library versions."""
    fields = "name,driver_version,power.limit,clocks.max.sm,clocks.sm,power.draw,temperature.gpu"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        said = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=20
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        said = f"nvidia-smi: {error}"
    return {
        "nvidia-smi": dict(zip(fields.split(","), said.splitlines()[0].split(", "), strict=False)),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def heat(torch: Any, seconds: float) -> None:
    """Run products until clocks are those of a warm GPU."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(50):
            torch.mm(a, a)
        torch.cuda.synchronize()


def main() -> int:
    """Measure within a time budget; what has been measured is on disk at any moment."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("kernel_measurements"))
    parser.add_argument(
        "--seconds", type=float, default=600.0, help="budget, shared by the three tables"
    )
    parser.add_argument("--point", type=float, default=0.05, help="seconds of repeats per point")
    parser.add_argument("--sustained", action="store_true", help="heat the GPU first")
    options = parser.parse_args()
    try:
        import torch
    except ImportError:
        sys.stderr.write("this script needs PyTorch with CUDA\n")
        return 2
    if not torch.cuda.is_available():
        sys.stderr.write("no NVIDIA GPU is visible to PyTorch\n")
        return 2
    options.output.mkdir(parents=True, exist_ok=True)
    gpu = torch.cuda.get_device_name(0)
    bench = Bench(torch, options.point)
    if options.sustained:
        heat(torch, 30.0)
    tables = (
        ("attention.csv", ATTENTION_COLUMNS, attentions),
        ("nongemm.csv", NONGEMM_COLUMNS, elementwise),
        ("gemm.csv", GEMM_COLUMNS, gemms),
    )
    for name, columns, rows in tables:
        end = time.monotonic() + options.seconds / len(tables)
        with (options.output / name).open("w", newline="") as f:
            writer = csv.DictWriter(f, columns)
            writer.writeheader()
            for row in rows(bench, gpu):
                writer.writerow(row)
                f.flush()
                if time.monotonic() > end:
                    sys.stderr.write(f"{name}: budget used, table cut short\n")
                    break
    (options.output / "machine.json").write_text(json.dumps(machine(torch), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
