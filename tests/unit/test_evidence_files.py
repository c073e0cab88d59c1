"""Files of measurements: nccl-tests in every variant seen, profiler traces, nvbandwidth; damage."""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.errors import InputError
from sim.interop.kineto import kind_of, read_kineto
from sim.interop.nccl_tests import read_nccl_tests
from sim.interop.nvbandwidth import read_nvbandwidth
from sim.interop.trace_diff import recorded_profile

EXAMPLES = Path(__file__).parents[3] / "shared" / "users" / "examples"

# size, time [us]; bandwidths follow: algbw = size / time, busbw = algbw x factor
ROWS = [(4096, 30.0), (1048576, 61.5), (1073741824, 4400.25)]
FACTORS = {"all_reduce": lambda n: 2 * (n - 1) / n, "broadcast": lambda n: 1.0}


def factor(op: str, n: int) -> float:
    return FACTORS.get(op, lambda n: (n - 1) / n)(n)


def table(op: str, ranks: int, *, columns: str = "root redop #wrong", head: bool = True) -> str:
    """A log as nccl-tests would print it, in the columns of a version."""
    per_rank = op in ("all_gather", "reduce_scatter", "all_to_all")
    lines = []
    if head:
        lines += [f"# nThread 1 nGpus {ranks} minBytes 4096 maxBytes 1073741824 step: 2(factor)"]
        lines += ["#", "# Using devices"]
        lines += [
            f"#  Rank {r:2d} Group  0 Pid {900 + r} on host{r // 8} device {r % 8} "
            f"[0x{r:02x}] NVIDIA A100-SXM4-80GB"
            for r in range(ranks)
        ]
    wrong = "#wrong" if "#wrong" in columns else "error"
    lines += [f"#       size         count      type     time   algbw   busbw {wrong}"]
    for size, us in ROWS:
        count = size // 4 // (ranks if per_rank else 1)
        alg = size / us / 1e3
        extra = ("     sum" if op in ("all_reduce", "reduce_scatter") else "    none") * (
            "redop" in columns
        )
        extra += "      -1" * ("root" in columns)
        check = "0" if wrong == "#wrong" else "2e-07"
        part = f"{us:8.2f} {alg:7.2f} {alg * factor(op, ranks):7.2f} {check:>6s}"
        lines.append(f"{size:12d} {count:12d} {'float':>9s}{extra} {part} {part}")
    return "\n".join([*lines, "# Out of bounds values : 0 OK", "# Avg bus bandwidth    : 58.3", ""])


def write(tmp_path: Path, text: str | bytes, name: str = "log.txt") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def points(path: Path) -> list[tuple[float, float]]:
    (only,) = read_nccl_tests(path)
    return [(p.size, p.time_s * 1e6) for p in only.points]


@pytest.mark.parametrize("columns", ["", "redop", "redop root", "root redop #wrong"])
@pytest.mark.parametrize("op", ["all_reduce", "all_gather", "reduce_scatter", "broadcast"])
def test_every_version_of_the_columns(tmp_path: Path, columns: str, op: str) -> None:
    path = write(tmp_path, table(op, 8, columns=columns), f"{op}_perf.log")
    (found,) = read_nccl_tests(path)
    assert (found.op, found.ranks, found.gpu) == (op, 8, "NVIDIA A100-SXM4-80GB")
    assert found.hosts == {"host0": 8}
    assert [(p.size, p.time_s * 1e6) for p in found.points] == [
        (size, pytest.approx(us)) for size, us in ROWS
    ]


@pytest.mark.parametrize(
    "mangle",
    [
        lambda s: "\n".join(f"0: {line}" for line in s.splitlines()),  # srun --label
        lambda s: "\n".join(f"[1,0]<stdout>:{line}" for line in s.splitlines()),  # mpirun --tag
        # a launcher that tags each piece it gets, so inside lines too (NVIDIA/nccl issue 1453)
        lambda s: "\n".join("[0]" + line.replace("  -1 ", "  -1[0] ") for line in s.splitlines()),
        lambda s: re.sub(r"(?m)^(.{20})", r"[1,12]<stdout>:\1[1,12]<stdout>:", s),
        lambda s: s.replace("\n", "\r\n"),
        lambda s: s.replace("#       size", "n:1:1 [0] NCCL INFO Launch mode Parallel\n#   size"),
        lambda s: "\x1b[32m" + s.replace("\n", "\x1b[0m\n"),
        lambda s: s.replace(
            "    1048576", "n:7:9 [3] NCCL INFO comm 0x7f 4096 8 float\n    1048576"
        ),
    ],
)
def test_prefixes_and_interleaved_lines(tmp_path: Path, mangle: object) -> None:
    text = mangle(table("all_reduce", 16))  # type: ignore[operator]
    (found,) = read_nccl_tests(write(tmp_path, text))
    assert (found.op, found.ranks) == ("all_reduce", 16)
    assert len(found.points) == len(ROWS)


@pytest.mark.parametrize("ranks", [2, 8, 16, 64, 128, 512])
@pytest.mark.parametrize("op", ["all_reduce", "all_gather"])
def test_ranks_without_a_head(tmp_path: Path, ranks: int, op: str) -> None:
    """From bus over algorithm bandwidth 2 (n-1)/n, or from size over count."""
    path = write(tmp_path, table(op, ranks, head=False), f"{op}.log")
    (found,) = read_nccl_tests(path)
    assert found.ranks == ranks
    assert "ranks, from" in found.notes[0]


def test_ranks_are_not_read_from_a_ratio_of_one_digit(tmp_path: Path) -> None:
    """0.03 and 0.05 GB/s are 3 ranks, or as many as one likes."""
    row = "1024  256  float  sum  -1  38.20  0.03  0.05  0  38.10  0.03  0.05  0\n"
    with pytest.raises(InputError, match="does not say how many ranks"):
        read_nccl_tests(write(tmp_path, row), "all_reduce")


def test_operation_is_never_guessed_between_two(tmp_path: Path) -> None:
    """All-gather and all-to-all print the same columns and the same ratio."""
    path = write(tmp_path, table("all_gather", 8, columns=""), "log.txt")
    with pytest.raises(InputError, match="does not say which operation"):
        read_nccl_tests(path)
    assert read_nccl_tests(path, "all_gather")[0].op == "all_gather"


def test_operation_from_the_program(tmp_path: Path) -> None:
    started = "# Collective test starting: reduce_scatter_perf\nNCCL version 2.21.5+cuda12.4\n"
    (found,) = read_nccl_tests(write(tmp_path, started + table("reduce_scatter", 8)))
    assert (found.op, found.nccl) == ("reduce_scatter", "2.21.5")


def test_contradiction_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, table("all_reduce", 8), "all_gather_perf.txt")
    with pytest.raises(InputError, match="is it another operation"):
        read_nccl_tests(path)


def test_two_runs_in_a_file(tmp_path: Path) -> None:
    text = table("all_reduce", 8) + table("all_reduce", 16, head=False)
    first, second = read_nccl_tests(write(tmp_path, text))
    assert (first.ranks, second.ranks) == (8, 16)
    assert second.source.endswith("#2")


def test_wrong_results_and_zero_sizes_are_left_out(tmp_path: Path) -> None:
    text = table("all_reduce", 8).replace(
        " 4400.25  244.02  427.03      0", " 4400.25  244.02  427.03     12"
    )
    zero = "           0             0     float     sum      -1    34.27    0.00    0.00      0\n"
    (found,) = read_nccl_tests(write(tmp_path, text.replace("# Out", zero + "# Out")))
    assert [p.size for p in found.points] == [4096, 1048576]
    assert found.notes == ["1 row with wrong results left out"]


def test_json(tmp_path: Path) -> None:
    """The layout of ``-J``: results with out_of_place and in_place."""
    rows = [
        {
            "size": size, "count": size // 4, "type": "float", "redop": "sum", "root": -1,
            "out_of_place": {"time": us, "alg_bw": size / us / 1e3,
                             "bus_bw": size / us / 1e3 * 1.75, "nwrong": 0},
            "in_place": {"time": 2 * us, "alg_bw": 1.0, "bus_bw": 1.75, "nwrong": "N/A"},
        }
        for size, us in ROWS
    ]  # fmt: skip
    document = {
        "version": 1, "args": ["./build/all_reduce_perf", "-b", "4K"], "nccl_version": 22703,
        "devices": [{"rank": r, "hostname": "a", "device_info": "NVIDIA H100"} for r in range(8)],
        "results": rows,
    }  # fmt: skip
    (found,) = read_nccl_tests(write(tmp_path, json.dumps(document), "x.json"))
    assert (found.op, found.ranks, found.nccl, found.gpu) == (
        "all_reduce",
        8,
        "2.27.3",
        "NVIDIA H100",
    )
    assert [p.in_place_s / p.time_s for p in found.points] == [pytest.approx(2.0)] * 3


# --- Kineto --------------------------------------------------------------------------------------


def kernel(name: str, start: float, us: float, **arguments: object) -> dict[str, object]:
    return {"ph": "X", "cat": "kernel", "name": name, "ts": start, "dur": us, "args": arguments}


NCCL = {
    "Collective name": "_allgather_base", "In msg nelems": 1000, "Out msg nelems": 8000,
    "Group size": 8, "dtype": "BFloat16",
}  # fmt: skip
TRACE = {
    "distributedInfo": {"backend": "nccl", "rank": 0, "world_size": 8, "nccl_version": "2.21.5"},
    "deviceProperties": [{"name": "NVIDIA A100-SXM4-80GB"}],
    "traceEvents": [
        {"ph": "X", "cat": "user_annotation", "name": "ProfilerStep#4", "ts": 0.0, "dur": 90.0},
        {"ph": "X", "cat": "user_annotation", "name": "ProfilerStep#5", "ts": 100.0, "dur": 90.0},
        kernel("ampere_bf16_s16816gemm_bf16_128x256", 1.0, 30.0),
        kernel("flash_fwd_kernel<Flash_fwd_kernel_traits<128>>", 40.0, 8.0),
        kernel("void fbgemm_gpu::permute_2D_lengths_kernel<int>", 50.0, 2.0),
        kernel(
            "ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)", 5.0, 40.0, **NCCL
        ),
        kernel(
            "ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)", 60.0, 25.0, **NCCL
        ),
        kernel("ncclKernel_SendRecv_RING_SIMPLE_Sum_int8_t", 90.0, 3.0),
    ],
}


@pytest.mark.parametrize("packed", [False, True])
def test_trace(tmp_path: Path, packed: bool) -> None:
    data = json.dumps(TRACE).encode()
    path = write(
        tmp_path, gzip.compress(data) if packed else data, "t.json.gz" if packed else "t.json"
    )
    found = read_kineto(path)
    assert (found.steps, found.world_size, found.nccl) == (2, 8, "2.21.5")
    assert found.step_s == pytest.approx(100e-6)
    assert found.per_step("gemm") == pytest.approx(15e-6)
    assert found.per_step("attention") == pytest.approx(4e-6)
    assert found.kinds["other"] == pytest.approx(2e-6)  # fbgemm is no GEMM
    (gather,) = found.collectives
    assert gather == ("all_gather", 8, 16000.0, 2, pytest.approx(25e-6), pytest.approx(32.5e-6))
    assert found.notes == ["1 collectives without their size left out"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nvjet_hsh_256x128_64x4_1x2_h_bz_coopA_NTT", "gemm"),
        ("sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64", "gemm"),
        ("void cutlass::device_kernel<flash::enable_sm90<flash::FlashAttnFwdSm90>>", "attention"),
        ("fmha_cutlassF_bf16_aligned_64x128_rf_sm80", "attention"),
        ("triton_red_fused_mul_0", "other"),
        ("ncclDevKernel_ReduceScatter_Sum_bf16_RING_LL", "collective"),
        ("void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimizer"),
    ],
)  # fmt: skip
def test_kinds_of_kernels(name: str, kind: str) -> None:
    assert kind_of(name) == kind


# --- nvbandwidth ---------------------------------------------------------------------------------


def test_nvbandwidth(tmp_path: Path) -> None:
    text = """nvbandwidth Version: v0.6
Device 0: NVIDIA H100 80GB HBM3 (00000000:01:00)

Running host_to_device_memcpy_ce.
memcpy CE CPU(row) -> GPU(column) bandwidth (GB/s)
           0         1
 0     55.10     55.30

SUM host_to_device_memcpy_ce 110.40

Waived:
Running device_to_device_memcpy_read_ce.
memcpy CE GPU(row) -> GPU(column) bandwidth (GB/s)
           0         1
 0       N/A    390.10
 1    390.20       N/A

SUM device_to_device_memcpy_read_ce 780.30
"""
    found = read_nvbandwidth(write(tmp_path, text))
    assert found.gpu == "NVIDIA H100 80GB HBM3"
    assert found.median("host_to_device") == pytest.approx(55.3e9)
    assert found.rates["device_to_device"] == [pytest.approx(390.1e9), pytest.approx(390.2e9)]
    assert math.isnan(found.median("device_to_host"))


def test_what_nvbandwidth_would_never_print_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "Device 0: NVIDIA H100 80GB HBM3\n" * 520_000)
    with pytest.raises(InputError, match="is larger than 16 MB"):
        read_nvbandwidth(path)


# --- damage --------------------------------------------------------------------------------------

READERS = {"nccl": read_nccl_tests, "kineto": read_kineto, "copies": read_nvbandwidth}
HOSTILE = [
    b"", b"   \n", b"\x00\x01\x02", b"\xff\xfe\x00", b"{", b"[]", b"{}", b"null", b"[[[[[[[[",
    b'{"traceEvents": 3}', b'{"traceEvents": [1, null, {"ph": "X"}]}', b"[" * 100000,
    b'{"results": [{"size": 1e999}]}', b'{"results": 5}', b"\x1f\x8b\x08\x00broken",
    gzip.compress(json.dumps(TRACE).encode())[:60], json.dumps(TRACE).encode()[:-40],
    b"9" * 5000, b"4096 1024 float 1e999 1 1 0", b"size count type\n" * 100,
    b'{"traceEvents": [{"ph":"X","cat":"kernel","name":"k","ts":"a","dur":-1}]}',
    b'{"results": [{"size": ' + b"9" * 400 + b', "count": 1, "type": "float"}]}',
]  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("data", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_files_are_input_errors(tmp_path: Path, reader: str, data: bytes) -> None:
    with pytest.raises(InputError) as caught:
        READERS[reader](write(tmp_path, data, "all_reduce.bin"))
    assert all("all_reduce.bin" in str(fault) for fault in caught.value.faults)
    assert len(str(caught.value)) < 1000  # a file's own text is not said back


@pytest.mark.parametrize("reader", READERS)
def test_no_file_and_a_folder(tmp_path: Path, reader: str) -> None:
    for path, why in ((tmp_path / "missing", "no such file"), (tmp_path, "folder|directory")):
        with pytest.raises(InputError, match=why):
            READERS[reader](path)


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sim.interop.trace_file.MAX_BYTES", 1_000_000)
    with pytest.raises(InputError, match="larger than 1 MB"):
        read_kineto(write(tmp_path, gzip.compress(b" " * 5_000_000), "bomb.json.gz"))


@settings(max_examples=60)
@given(cut=st.integers(0, 4000), at=st.integers(0, 3000), junk=st.binary(max_size=12))
def test_damage_never_gives_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, cut: int, at: int, junk: bytes
) -> None:
    folder = tmp_path_factory.mktemp("damage")
    for reader, text in (("nccl", table("all_reduce", 8)), ("kineto", json.dumps(TRACE))):
        data = text.encode()
        damaged = (data[:at] + junk + data[at:])[: max(1, len(data) - cut)]
        with contextlib.suppress(InputError):
            READERS[reader](write(folder, damaged, "all_reduce"))


@pytest.mark.skipif(not EXAMPLES.exists(), reason="other people's files are not in this checkout")
def test_files_of_real_people() -> None:
    """All are read, but for one operation that the model has not."""
    read, refused = {}, {}
    for folder, reader in (
        ("nccl_tests", read_nccl_tests), ("kineto", read_kineto), ("nvbandwidth", read_nvbandwidth)
    ):  # fmt: skip
        for path in sorted((EXAMPLES / folder).iterdir()):
            try:
                read[path.name] = reader(path)  # type: ignore[operator]
            except InputError as error:
                refused[path.name] = str(error)
    assert len(read) == 12
    (name,) = refused
    assert name == "superbench-nccl_reduce.log"
    assert "measures reduce" in refused[name]
    p4de, p5 = read["aws-2xp4de-2xp5-all_reduce-rankprefix.txt"]
    assert (p4de.ranks, p5.ranks) == (16, 16)
    assert p5.points[-1].size / p5.points[-1].time_s * 1.875 == pytest.approx(487.1e9, rel=1e-3)
    (gather,) = read["superbench-nccl_allgather.log"]
    assert gather.op == "all_gather"
    assert gather.points[-1].size / gather.points[-1].time_s * 7 / 8 == pytest.approx(
        223.4e9, rel=1e-3
    )
    assert len(read["nccl_data.json.gz"].collectives) == 7


def test_of_a_trace_without_products_the_stream_that_computes_is_read(tmp_path: Path) -> None:
    """A collective that waits is longest, and is no work of its stream; True is no count."""
    map_, gather = kernel("elementwise", 1.0, 5.0), kernel("ncclDevKernel_AllGather", 1.0, 50.0)
    trace = {
        "distributedInfo": {"world_size": True},
        "traceEvents": [
            {"ph": "X", "cat": "user_annotation", "name": "ProfilerStep#1", "ts": 0.0, "dur": 60.0},
            map_ | {"tid": 7}, gather | {"tid": 20},
        ],
    }  # fmt: skip
    path = write(tmp_path, json.dumps(trace).encode(), "t.json")
    found = read_kineto(path)
    assert found.kinds == pytest.approx({"other": 5e-6, "collective": 50e-6})
    taken = recorded_profile(str(path))
    assert (found.world_size, taken.world_size) == (1, 1)
