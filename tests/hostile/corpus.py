"""What people and machines may feed to a command line: every reader's input, damaged in every way.

`readers` has a good file for each reader and the command that reads it; `cases` damages each: other
bytes, other syntax, every value in it replaced. `options` is the same for values of options.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

TRAINER_FILES = Path(__file__).parents[2] / "docs" / "examples" / "files"
TOPO_FILES = Path(__file__).parents[1] / "data" / "topo"
#: what must reach no terminal: an escape, a bell, a C1 control, a turn of the writing direction
TRICKS = "\x1b[31m\x1b]0;owned\x07\x9b1m\u202e"


class Case(NamedTuple):
    """A command line, and the files that it names."""

    name: str
    argv: tuple[str, ...]
    files: dict[str, bytes]


class Reader(NamedTuple):
    """A good file and what reads it."""

    file: str
    good: str
    argv: tuple[str, ...]


TOPOLOGY = """\
name: box
nodes: 1
node:
  gpu: h100-sxm-80gb
  gpus: 4
  nvlink: {generation: 4, links_per_gpu: 18, fabric: nvswitch}
  pcie: {generation: 5}
  cpu: {memory: 1 TB, cores: 64}
  nics: {count: 4, rate: 400 Gb/s}
network: {kind: rail-optimized, oversubscription: 1.0}
offer: {price_per_gpu_hour: 2 USD}
"""
GRAPH = """\
name: pair
graph:
  vertices:
    - {id: g0, kind: gpu, gpu: h100-sxm-80gb, node: 0}
    - {id: g1, kind: gpu, gpu: h100-sxm-80gb, node: 0}
    - {id: c, kind: cpu, node: 0}
    - {id: p, kind: pcie-switch, node: 0}
  edges:
    - {source: p, target: c, kind: pcie, bandwidth: 26 GB/s}
    - {source: g0, target: p, kind: pcie, bandwidth: 26 GB/s}
    - {source: g1, target: p, kind: pcie, bandwidth: 26 GB/s}
"""
WORKLOAD = """\
name: job
model:
  {name: tiny, layers: 2, hidden_size: 256, heads: 4, kv_heads: 2, ffn_size: 512, vocab_size: 999}
method: {lora: {rank: 8, targets: [q, v]}}
sequence_length: 512
micro_batch: 1
gradient_accumulation: 2
tokens: 1e6
precision: bf16
parallelism: {strategy: fsdp2}
activation_checkpointing: none
data: {packing: false, mean_length: 100}
stack: {torch: "2.6"}
"""
CONFIG = json.dumps(
    {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 256,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 512, "vocab_size": 1000, "max_position_embeddings": 2048,
        "tie_word_embeddings": False, "rope_theta": 10000.0,
    },
    indent=1,
)  # fmt: skip
SWEEP = """\
name: grid
topology: h100-x1
workload: job.yaml
set: {tokens: 1e6}
axes: {micro_batch: [1, 2]}
where: ["gpus <= 8"]
require: [fits]
pareto: [cost_usd, wall_clock_s]
"""
JOBS = """\
name: week
jobs:
  - {name: a, workload: job.yaml, nodes: 1, arrival: 1 h, deadline: 8 h, count: 2, every: 24 h}
"""
STUDY = """\
title: Does it fit?
cases: [{name: small, topology: h100-x1, workload: job.yaml}]
claims:
  - {id: fits, claim: It fits., lines: [{label: peak, case: small, metric: memory_gib, high: 79}]}
"""
RUNS = "- {topology: h100-x1, workload: job.yaml, step_time_s: 0.1}\n"
CALIBRATION = "gemm_clock: 0.9\nhost_launch: 1.2\nfitted_on: [a log]\n"
PRICES = (
    "provider,instance,gpu,gpus_per_node,usd_per_gpu_hour,spot_usd_per_gpu_hour,region,residency,"
    "as_of,source,country\nmine,box,h100-sxm-80gb,8,2.0,1.0,eu-north,EU,2026-01-02,invoice,SE\n"
)
SKYPILOT = (
    "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,Price,SpotPrice,Region\n"
    "p5.48xlarge,H100,8,192,2048,98.32,20.0,us-east-1\n"
)
NCCL = """\
# Collective test starting: all_reduce_perf
#  Rank  0 Group  0 Pid 9 on host0 device 0 [0x07] NVIDIA H100 80GB HBM3
#  Rank  1 Group  0 Pid 9 on host0 device 1 [0x0f] NVIDIA H100 80GB HBM3
#       size         count      type   redop    root     time   algbw   busbw #wrong
     1048576        262144     float     sum      -1    20.00   52.43   52.43      0
  1073741824     268435456     float     sum      -1  4300.00  249.71  249.71      0
"""
KINETO = json.dumps(
    {
        "schemaVersion": 1,
        "traceEvents": [
            {"ph": "X", "cat": "user_annotation", "name": "ProfilerStep#1", "ts": 0, "dur": 9000},
            {"ph": "X", "cat": "kernel", "name": "sm90_gemm", "ts": 10, "dur": 50,
             "args": {"stream": 7, "device": 0}},
        ],
    }, indent=1,
)  # fmt: skip
CLUSTER_TRACE = """\
job_id,submit_time,gpu_num,duration,priority,deadline
a,2026-01-05 09:00:00,1,3600,1,10800
b,2026-01-05 09:10:00,1,7200,0,
c,2026-01-05 11:30:00,1,600,2,36000
"""
NVBANDWIDTH = """\
nvbandwidth Version: v0.6
Running host_to_device_memcpy_ce.
memcpy CE CPU(row) -> GPU(column) bandwidth (GB/s)
           0         1
 0     55.10     55.30

SUM host_to_device_memcpy_ce 110.40
"""


ACCELERATE = """\
compute_environment: LOCAL_MACHINE
distributed_type: FSDP
mixed_precision: bf16
num_machines: 2
num_processes: 16
fsdp_config: {fsdp_version: 2, fsdp_reshard_after_forward: true, fsdp_offload_params: false}
"""
TORCHTITAN = """\
[model]
name = "llama3"
flavor = "8B"
[training]
local_batch_size = 2
seq_len = 8192
steps = 100
[parallelism]
data_parallel_shard_degree = -1
tensor_parallel_degree = 2
"""
TORCHTUNE = """\
model: {_component_: torchtune.models.llama3_1.lora_llama3_1_8b, lora_rank: 8}
tokenizer: {max_seq_len: 2048}
batch_size: 2
dtype: bf16
"""
MEGATRON = """\
torchrun --nproc_per_node 8 pretrain_gpt.py --num-layers 32 --hidden-size 4096 --seq-length 2048
  --num-attention-heads 32 --vocab-size 32000 --micro-batch-size 1 --bf16
"""
RESULT = json.dumps(
    {"schema": "scaling-sim/result/1", "step": {"time_s": 2.0, "parts": [1, 2]}, "fits": True},
    indent=1,
)


def readers() -> dict[str, Reader]:
    """Every reader of files, by name."""
    on = ("h100-x1", "job.yaml")
    found = {
        "topology": Reader("in.yaml", TOPOLOGY, ("memory", "in.yaml", "job.yaml")),
        "graph": Reader("in.yaml", GRAPH, ("topo", "show", "in.yaml")),
        "workload": Reader("in.yaml", WORKLOAD, ("run", "h100-x1", "in.yaml", "--quiet")),
        "config.json": Reader(
            "config.json", CONFIG, ("memory", "h100-x1", "job.yaml", "--set", "model=config.json")
        ),
        "sweep": Reader("in.yaml", SWEEP, ("sweep", "in.yaml", "-j", "1")),
        "jobs": Reader("in.yaml", JOBS, ("plan", "h100-x1", "in.yaml")),
        "study": Reader("in.yaml", STUDY, ("study", "in.yaml")),
        "runs": Reader("in.yaml", RUNS, ("calibrate", *on, "--measured", "in.yaml")),
        "calibration": Reader("in.yaml", CALIBRATION, ("memory", *on, "--calibration", "in.yaml")),
        "prices": Reader("in.csv", PRICES, ("prices", "list", "--prices", "in.csv")),
        "skypilot": Reader(
            "vms.csv", SKYPILOT,
            ("prices", "import", "vms.csv", "--provider", "aws", "--as-of", "2026-01-02"),
        ),
        "nccl-tests": Reader(
            "all_reduce.log", NCCL, ("calibrate", "dgx-h100", "--nccl-tests", "all_reduce.log")
        ),
        "cluster trace": Reader("in.csv", CLUSTER_TRACE, ("plan", "h100-x1", "in.csv")),
        "recorded step": Reader(
            "t.json", KINETO, ("trace", "diff", "t.json", "h100-x1", "job.yaml")
        ),
        "prices of two": Reader(
            "in.csv", PRICES,
            ("compare", *on, "--vary", "micro_batch=1,2", "--prices", "in.csv"),
        ),
        "kineto": Reader("t.json", KINETO, ("calibrate", *on, "--kineto", "t.json")),
        "nvbandwidth": Reader(
            "nvb.txt", NVBANDWIDTH, ("calibrate", "dgx-h100", "--nvbandwidth", "nvb.txt")
        ),
    }  # fmt: skip
    for path in sorted(TRAINER_FILES.iterdir()):
        if path.name == "accelerate.yaml":  # it names another file
            continue
        text = path.read_text()
        found[path.name] = Reader(path.name, text, ("import", path.name))
    found["accelerate.yaml"] = Reader("accelerate.yaml", ACCELERATE, ("import", "accelerate.yaml"))
    found["torchtitan.toml"] = Reader("t.toml", TORCHTITAN, ("import", "t.toml"))
    found["torchtune.yaml"] = Reader("t.yaml", TORCHTUNE, ("import", "t.yaml"))
    found["megatron.sh"] = Reader("m.sh", MEGATRON, ("import", "m.sh"))
    found["result"] = Reader("a.json", RESULT, ("diff", "a.json", "a.json"))
    for name in ("four-a100-trimmed.txt", "dump.xml"):
        text = (TOPO_FILES / name).read_text()
        command = ("topo", "import", name, "--gpu", "a100-sxm-80gb", "--nic", "200Gb/s")
        found[name] = Reader(name, text, command)
    return found


def damaged(good: str) -> Iterator[tuple[str, bytes]]:
    """A file's content in ways that no reader expects."""
    data = good.encode()
    yield "empty", b""
    yield "blank", b" \n\t\n"
    yield "cut", data[: len(data) // 2]
    yield "cut late", data[:-3]
    yield "NUL inside", data[:20] + b"\x00" + data[20:]
    yield "UTF-16", good.encode("utf-16")
    yield "Latin-1", data + b"# caf\xe9\n"
    yield "byte order mark", b"\xef\xbb\xbf" + data
    yield "carriage returns", data.replace(b"\n", b"\r")
    yield "Windows lines", data.replace(b"\n", b"\r\n")
    yield "gzip", gzip.compress(data)
    yield "broken gzip", gzip.compress(data)[:-9]
    yield "gzip of zeros", gzip.compress(bytes(1 << 20))
    yield "ELF", b"\x7fELF\x02\x01\x01" + bytes(range(256))
    yield "SQLite", b"SQLite format 3\x00" + bytes(84)
    yield "twice", data + data
    yield "reversed", data[::-1]
    yield "upper case", data.upper()
    yield "a long line", data + b"# " + b"x" * 300_000
    yield "many lines", data + b"#\n" * 50_000
    yield "deep lists", b"[" * 5_000
    yield "deep mappings", b"{a: " * 5_000
    yield "deep JSON", b'{"a":' * 5_000 + b"1" + b"}" * 5_000
    yield "tricks first", TRICKS.encode() + data
    yield "tricks inside", re.sub(r"(?<=\w)(?=\n)", TRICKS, good).encode("utf-8", "replace")
    yield "a list", b"[1, 2, 3]\n"
    yield "a number", b"1e999\n"
    yield "a text", b"'" + b"a" * 5_000 + b"'\n"
    yield "null", b"null\n"
    yield "laughs", b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n" + data
    yield "an object of Python", b"!!python/object/apply:os.system ['touch owned']\n"
    yield (
        "an entity",
        (
            b'<?xml version="1.0"?><!DOCTYPE s [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">'
            b'<!ENTITY x SYSTEM "file:///etc/passwd">]><system version="1">&b;&x;</system>'
        ),
    )
    yield "HTML", b"<!DOCTYPE html><html><body>404 Not Found</body></html>\n"


#: put in the place of a value, as YAML and JSON would both write it
VALUES = (
    "-1", "0", "1e308", "-0.0", "1e-300", "9223372036854775808", "1" + "0" * 400, "true", "null",
    "[]", "{}", '""', '"x"', '"../../owned"', '"\\u001b[31mred"', '"1 GB"', '"400 Gb/s"', '"nan"',
    '"inf"', '"1e9"', '"0x10"', '"' + "y" * 3000 + '"',
)  # fmt: skip
_VALUE = re.compile(r'(?<=[:\[,] )(?:"[^"\n]*"|[\w.+/-]+(?: [A-Za-z/]+)?)(?=[,}\]\n])')


def replaced(good: str, every: int = 8) -> Iterator[tuple[str, bytes]]:
    """A file with one of its values another: one replacement of every so many."""
    count = 0
    for match in _VALUE.finditer(good):
        for value in VALUES:
            count += 1
            if count % every == 0:
                changed = good[: match.start()] + value + good[match.end() :]
                yield f"{match[0][:20]} -> {value[:20]}", changed.encode()


def cases(reader: Reader) -> Iterator[Case]:
    """Everything that a reader may get instead of its file."""
    beside = {"job.yaml": WORKLOAD.encode()}
    yield Case("good", reader.argv, beside | {reader.file: reader.good.encode()})
    for name, content in (*damaged(reader.good), *replaced(reader.good)):
        yield Case(name, reader.argv, beside | {reader.file: content})


OPTIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "--set": (
        ("memory", "h100-x1", "job.yaml", "--set"),
        (
            "nodes=0", "nodes=1e400", "nodes=", "=1", "nodes", "nodes=1=2", "a.b.c=1", "...=1",
            "nodes=[", "nodes={a: {b: [", "node=null", "node.gpu={base: h100-sxm-80gb, base: x}",
            "model=../../etc", "model=/dev/null", "model=/", "model=\x1b[31m", "name=\x1b[31m",
            "name=../../owned", "name=" + "n" * 5000, "sequence_length=1e18",
            "micro_batch=99999999999999999999", "tokens=1e300", "method={lora: {rank: 1e9}}",
            "calibration.gemm_clock=0", "calibration.gemm_clock=1e-300", "stack.torch=\x1b",
            "stack.torch=99.99.99.99", "stack.torch=x", "parallelism={strategy: {a: 1}}",
            "precision={bf16: {master: [bf16]}}", "model.layers=0", "model.layers=100000000",
            "model={layers: 1}", "!!python/name:os.system=1", "nodes=!!int 3", "nodes=*a",
            "nodes=&a 2", "<<={nodes: 2}", "nodes=0b11", "nodes=٣", "nodes=２", "nodes=1_000",
            "\ud800=1", "micro_batch=\u202e1",
        ),
    ),
    "--vary": (
        ("compare", "h100-x1", "job.yaml", "--vary"),
        (
            "", "nodes", "nodes=", "nodes=,", "nodes=1..", "nodes=..3", "nodes=3..1",
            "nodes=1..1000000000", "nodes=1,1", "x=1,2", "nodes=a,b", "micro_batch=\x1b[31m,2",
            "nodes={", "micro_batch=1.5,2", "topology=a,b", "workload=/dev/null,h100-x1",
            "micro_batch=1..0.5", "micro_batch=1,2,",
        ),
    ),
    "--where": (
        ("sweep", "h100-x1", "job.yaml", "--vary", "micro_batch=1,2", "-j", "1", "--where"),
        (
            "", "gpus", "gpus <", "gpus < < 8", "gpus < x",
            "__import__('os').system('touch owned')", "gpus ** 99999999", "gpus < 8 and", "1",
            "true", "gpus < 1e999", "gpus < '\x1b'", "(" * 500, "gpus.__class__", "lambda: 1",
            "gpus in [1]", "9**9**9 > 1", "not " * 3000 + "fits",
        ),
    ),
    "--pareto": (
        ("sweep", "h100-x1", "job.yaml", "--vary", "micro_batch=1,2", "-j", "1", "--pareto"),
        (
            "", ",", "cost_usd", "nothing,mfu", "mfu,mfu", "\x1b[31m,mfu",
            "step_time_s,memory_gib,mfu,cost_usd",
        ),
    ),
    "--require": (
        ("run", "h100-x1", "job.yaml", "--quiet", "--require"),
        (
            "", "fits", "mfu", "mfu>", "mfu>x", "mfu>1e999", "mfu>>1", "nothing>1", "\x1b[31m>1",
            "'x' * 999999999 == 1", "'%999999999d' % 1 == 1", "[1] * 999999999 == 1",
            "9 ** 9 ** 9 > 1", "fits()", "mfu > 40 %", "mfu > 3 parsecs", "1 if fits else 2",
            "step.time_s > $", "x.y.z", "(" * 900, "not " * 900, "fits and " * 200 + "fits",
            "name == 'a'", "mfu > '40 %'", "%",
            "mfu>0.1 and fits", "mfu>1..2", "memory.fits<1", "step.time_s<0",
        ),
    ),
    "--sizes": (
        ("collective", "dgx-h100", "--sizes"),
        (
            "", "0", "-1", "1:0", "1K:", ":1G", "1K:1000000000G", "x", "1,2,x", "1K", "1e400",
            "nan", "1:1:1", ",".join(["1K"] * 3000),
        ),
    ),
    "--ranks": (
        ("collective", "dgx-h100", "--ranks"),
        (
            "-1", "0", "1", "2", "9", "1e9", "x", "99999999999999999999",
        ),
    ),
    "--nccl": (
        ("collective", "dgx-h100", "--nccl"),
        (
            "", "0", "2", "2.x", "99.99", "-1", "\x1b[31m", "2.21.5-1+cuda12", "9" * 500,
        ),
    ),
    "--slow": (
        ("run", "h100-x1", "job.yaml", "--quiet", "--slow"),
        (
            "", "rank", "rank:0", "rank:0=", "rank:0=x", "rank:0=0", "rank:0=-1", "rank:0=1e-300",
            "rank:9=0.5", "rank:-1=0.5", "link:a>b=0.5", "link:=1", "x:0=1", "rank:0=nan",
            "rank:0=inf", "rank:\x1b=1",
        ),
    ),
    "--jitter": (
        ("run", "h100-x1", "job.yaml", "--quiet", "--jitter"),
        (
            "", "x", "-1%", "5", "5%", "1e400%", "nan", "inf%", "100%", "1000%", "0", "\x1b%",
        ),
    ),
    "--measured": (
        ("diagnose", "h100-x1", "job.yaml", "--measured"),
        (
            "", "x", "step_time_s", "step_time_s=", "step_time_s=0", "step_time_s=-1",
            "step_time_s=nan", "step_time_s=1e400", "step_time_s=1e-300", "step_time_s=1e300",
            "mfu=\x1b[31m", "tokens_per_s_per_gpu=1e9", "step_time_s=1 nodes",
            "step_time_s=1 \x1b=2",
        ),
    ),
    "--deadline": (
        ("size", "job.yaml", "--max-gpus", "8", "--gpu", "h100-sxm", "--deadline"),
        (
            "", "x", "0h", "-1h", "1e400h", "nan h", "1", "1 parsec", "\x1b[31m", "1e-9 s",
        ),
    ),
    "--budget": (
        ("size", "job.yaml", "--max-gpus", "8", "--gpu", "h100-sxm", "--budget"),
        (
            "", "x", "0 USD", "-1 USD", "1e400 USD", "5", "5 EUR", "\x1b[31m USD",
        ),
    ),
    "--policy": (
        ("plan", "h100-x1", "jobs.yaml", "--policy"),
        ("", "x", "all", "fifo,sjf", "FIFO", "\x1b[31m", "backfill", "1"),
    ),
    "--growth": (
        ("plan", "h100-x1", "jobs.yaml", "--growth"),
        (
            "", "x", "0", "-1", "1,2,x", "nan", "inf", "1e400", "1e9", "1,1", ",", "0.5,1,2",
            ",".join(["1"] * 500), "\x1b",
        ),
    ),
    "plan --vary": (
        ("plan", "h100-x1", "jobs.yaml", "--vary"),
        (
            "", "nodes", "nodes=", "nodes=0,1", "nodes=1..1000000000", "nodes=-1,2", "x=1,2",
            "nodes=1,1e400", "nodes=100000,1", "network.oversubscription=0,1", "name=\x1b,a",
        ),
    ),
    "plan --or": (
        ("plan", "h100-x1", "jobs.yaml", "--or"),
        ("", "x", "jobs.yaml", "/dev/null", "h100-x1", "dgx-h100", "../../etc", "\x1b[31m"),
    ),
    "plan --replicas": (
        ("plan", "h100-x1", "jobs.yaml", "--replicas"),
        ("", "x", "-1", "0", "1001", "1e9", "1.5", "1000", "99999999999999999999"),
    ),
    "trace --ranks": (
        ("trace", "h100-x1", "job.yaml", "--format", "csv", "--ranks"),
        ("", "x", "-1", "0,0", "0", "9", "0,", "0..3", "1e9", "\x1b", ",".join(["0"] * 3000)),
    ),
    "--screen": (
        ("sweep", "h100-x1", "job.yaml", "--vary", "micro_batch=1,2", "--vary",
         "gradient_accumulation=1,2", "-j", "1", "--screen"),
        (
            "", "x", "step_time_s", "cost_usd", "mfu", "-mfu", "fits", "step_time_s,mfu", "1",
            "\x1b[31m", "workload.micro_batch", "__class__", "step_time_s " * 50,
        ),
    ),
    "--exact": (
        ("sweep", "h100-x1", "job.yaml", "--vary", "micro_batch=1,2", "-j", "1", "--screen",
         "step_time_s", "--exact"),
        ("", "0", "-1", "x", "1", "1.5", "1e9", "99999999999999999999", "\x1b"),
    ),
    "--tolerance": (
        ("diff", "job.yaml", "jobs.yaml", "--tolerance"),
        ("", "x", "-1", "0", "1e400", "nan", "5 %", "500 %", "\x1b"),
    ),
    "--emit": (
        ("export", "h100-x1", "job.yaml", "-o", "/dev/null/x", "--emit"),
        ("", "x", "yaml", "axolotl", "deepspeed", "torchtitan", "sbatch,x", "\x1b[31m", "../../x"),
    ),
    "--on-time": (
        ("plan", "h100-x1", "jobs.yaml", "--smallest", "--on-time"),
        ("", "x", "0", "1", "-0.1", "1.1", "nan", "inf", "50 %"),
    ),
    "later verbs": (
        (),
        (
            "explain", "explain h100-x1 job.yaml", "explain h100-x1 job.yaml x",
            "explain h100-x1 job.yaml --set method=full", "explain job.yaml h100-x1",
            "explain h100-x1 job.yaml --set model.layers=10001", "support", "support x",
            "support h100-x1 job.yaml --set nodes=1e9", "support job.yaml", "trace diff",
            "support h100-x1 job.yaml -o /", "trace diff x h100-x1 job.yaml",
            "trace diff job.yaml h100-x1 job.yaml", "trace diff /dev/null h100-x1 job.yaml",
            "trace diff jobs.yaml job.yaml", "trace h100-x1 job.yaml --stages",
            "trace h100-x1 job.yaml --format svg", "plan", "plan h100-x1", "plan jobs.yaml h100-x1",
            "plan h100-x1 jobs.yaml --smallest --vary nodes=1,2", "plan h100-x1 /dev/null",
            "plan h100-x1 jobs.yaml --on-time 2", "plan h100-x1 jobs.yaml --on-time nan",
            "plan h100-x1 jobs.yaml --gantt --or h100-x1", "plan h100-x1 job.yaml",
            "study jobs.yaml", "improve h100-x1 jobs.yaml", "posttrain h100-x1 jobs.yaml",
            "compare h100-x1 job.yaml --with x", "trace h100-x1 job.yaml --memory-snapshot /",
            "explain h100-x1 job.yaml --format svg", "doctor x", "completion x", "init /",
            "config h100-x1 jobs.yaml", "diff jobs.yaml /dev/null", "mcp x",
        ),
    ),
    "verbs": (
        (),
        (
            "", "x", "run x", "run", "rnu a b", "--nothing", "run dgx-h100",
            "run dgx-h100 job.yaml --format x", "run . job.yaml", "run / job.yaml",
            "run /dev/null job.yaml", "run job.yaml job.yaml", "run dgx-h100 dgx-h100",
            "run ../../x job.yaml", "run \x1b[31m job.yaml", "memory a b c", "topo", "topo x",
            "topo show", "topo import", "need", "need x", "prices show x", "prices show \x1b[31m",
            "explain x", "explain \x1b[31m", "explain h100-x1", "list codes x", "support h100-x1",
            "support h100-x1 job.yaml --require x>1", "diff job.yaml job.yaml", "diff x x",
            "schema x", "study x", "study /dev/null", "validate x", "run h100-x1 job.yaml -q -o /",
            "run h100-x1 job.yaml -q -o /proc/owned", "run h100-x1 job.yaml -q -o job.yaml/x",
            "run h100-x1 job.yaml -q -o", "sweep job.yaml", "sweep h100-x1 job.yaml",
            "sweep h100-x1 job.yaml --vary nodes=1,2 --store /",
            "sweep h100-x1 job.yaml --vary nodes=1,2 --store job.yaml",
            "trace h100-x1 job.yaml -o /", "sweep h100-x1 job.yaml --vary nodes=1,2 --scheduler x",
            "prices import job.yaml --provider \x1b --as-of x",
        ),
    ),
}  # fmt: skip

_JOB = {"topology": "h100-x1", "workload": "llama3-8b-lora"}
_CYCLE = {"a": {"a": {"a": {"a": [[[[1]]]]}}}}
#: what a page that is not ours may send: bodies by the verb of the live page's API
BODIES: dict[str, tuple[Any, ...]] = {
    "run": (
        {}, _JOB, {**_JOB, "x": 1}, {**_JOB, "overrides": "nodes=2"}, {**_JOB, "overrides": [1]},
        {**_JOB, "overrides": ["nodes=1e400"]}, {**_JOB, "overrides": [TRICKS]},
        {**_JOB, "overrides": ["nodes=2"] * 65}, {**_JOB, "topology": "../../etc/passwd"},
        {**_JOB, "topology": "/dev/zero"}, {**_JOB, "topology": None}, {**_JOB, "topology": _CYCLE},
        {**_JOB, "workload": {"model": "/etc/passwd", "sequence_length": 8}},
        {**_JOB, "overrides": ["model=/etc/passwd"]}, {**_JOB, "slow": ["rank:0=nan"]},
        {**_JOB, "slow": ["rank:-1=0.5"]}, {**_JOB, "beside": {}}, {**_JOB, "beside": _CYCLE},
        {**_JOB, "curve": "yes please"}, {**_JOB, "overrides": ["nodes=99999"]},
    ),
    "draw": (
        {**_JOB, "what": "x"}, {**_JOB, "what": "machine", "slow": ["link:x<>y=0.5"]},
        {**_JOB, "what": 1},
    ),
    "size": (
        {}, {"workload": "llama3-8b-lora"}, {"workload": "llama3-8b-lora", "deadline": "1e400h"},
        {"workload": "llama3-8b-lora", "budget": "-1 USD", "deadline": TRICKS[:30]},
        {"workload": "llama3-8b-lora", "deadline": "1h", "gpu": ["x"]},
        {"workload": "llama3-8b-lora", "deadline": "1h", "max_gpus": 10**9},
        {"workload": _CYCLE, "deadline": "1h"},
    ),
    "plan": (
        {}, {"topology": "h100-x1", "jobs": []}, {"topology": "h100-x1", "jobs": [{}] * 25},
        {"topology": "h100-x1", "jobs": [{"name": TRICKS, "workload": "llama3-8b-lora"}]},
        {"topology": "h100-x1", "jobs": [{"name": "a", "workload": "x"}]},
        {"topology": "h100-x1", "policy": "x",
         "jobs": [{"name": "a", "workload": "llama3-8b-lora"}]},
        {"topology": "h100-x1",
         "jobs": [{"name": "a", "workload": "llama3-8b-lora", "arrival": "-1 h"}]},
        {"topology": "h100-x1",
         "jobs": [{"name": "a", "workload": "llama3-8b-lora", "nodes": 512}]},
    ),
    "diagnose": (
        _JOB, {**_JOB, "measured": ""}, {**_JOB, "measured": "step_time_s=nan"},
        {**_JOB, "measured": TRICKS}, {**_JOB, "measured": "step_time_s=1e-300"},
    ),
    "trace": (
        _JOB, {**_JOB, "recorded": 1}, {**_JOB, "recorded": []}, {**_JOB, "recorded": [{}]},
        {**_JOB, "recorded": {"traceEvents": None}}, {**_JOB, "recorded": {"traceEvents": [1]}},
        {**_JOB, "recorded": {"traceEvents": [{"ph": "X", "ts": "x", "dur": -1}]}},
        {**_JOB, "recorded": {"traceEvents": [{"ph": "X", "cat": "kernel", "name": TRICKS,
                                               "ts": 1e308, "dur": 1e308, "tid": {}}]}},
    ),
}  # fmt: skip
#: arguments of an assistant's tools
CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("run", {"topology": "", "workload": ""}), ("run", {"topology": "/", "workload": "."}),
    ("run", {**_JOB, "settings": ["nodes"]}), ("run", {**_JOB, "settings": [TRICKS]}),
    ("run", {**_JOB, "settings": ["nodes=1e400"]}), ("run", {**_JOB, "workload": "../../x"}),
    ("memory", {**_JOB, "settings": ["micro_batch=-1"]}), ("memory", {**_JOB, "topology": "x"}),
    ("size", {"workload": "x", "deadline": "1h"}), ("size", {"workload": ""}),
    ("size", {"workload": "llama3-8b-lora", "deadline": "x"}),
    ("size", {"workload": "llama3-8b-lora", "deadline": "1h", "max_gpus": -1}),
    ("size", {"workload": "llama3-8b-lora", "deadline": "1h", "max_gpus": 0}),
    ("compare", {"topologies": [], "workload": "llama3-8b-lora"}),
    ("compare", {"topologies": ["x", "h100-x1"], "workload": "llama3-8b-lora"}),
)  # fmt: skip


def options(name: str) -> Iterator[Case]:
    """Everything that an option may get."""
    command, values = OPTIONS[name]
    for value in values:
        argv = (*command, value) if command else tuple(value.split())
        files = {"job.yaml": WORKLOAD.encode(), "jobs.yaml": JOBS.encode()}
        yield Case(value[:60], argv, files)
