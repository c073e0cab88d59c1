"""What options, functions and the live page may be given instead of what they take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.hostile.corpus import TRICKS, Case, Content
from tests.hostile.samples import JOBS, MEGATRON, WORKLOAD

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
            "explain h100-x1 job.yaml --set model.layers=2001", "support", "support x",
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
    "import -o": (("import", "m.sh", "-o"), ("n" * 300, "/", "/dev/full", "m.sh", "m.sh/x")),
    "export -o": (
        ("export", "h100-x1", "job.yaml", "--emit", "yaml", "-o"), ("n" * 300, "/dev/full"),
    ),
    "--model-config": (
        ("memory", "h100-x1", "job.yaml", "--model-config"),
        ("", "/", "/dev/zero", "/proc/self/exe", "/proc/self/fd/99", "n" * 300, "job.yaml/x"),
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
    ("run", {}), ("nothing", {}), ("run", {**_JOB, "settings": "nodes=2"}),
    ("run", {**_JOB, "settings": [1, None]}), ("run", {**_JOB, "settings": {"a": 1}}),
    ("run", {**_JOB, "\x1b[31mx": 1}), ("run", {**_JOB, "x" * 9999: 1}),
    ("run", {"topology": None, "workload": ["a"]}), ("run", {"topology": "-", "workload": "-"}),
    ("run", {**_JOB, "workload": "-"}), ("run", {"topology": "x" * 9999, "workload": "y" * 9999}),
    ("run", {"topology": "\ud800", "workload": "\x00"}), ("memory", {**_JOB, "topology": _CYCLE}),
    ("run", {"topology": "/dev/zero", "workload": "/dev/zero"}),
    ("run", {**_JOB, "settings": ["nodes=1000000000"]}),
    ("run", {**_JOB, "settings": ["model=/dev/zero"]}),
    ("run", {**_JOB, "settings": ["sequence_length=1e18", "micro_batch=" + "9" * 5000]}),
    ("size", {"workload": "llama3-8b-lora", "deadline": "1h", "max_gpus": 10**30}),
    ("size", {"workload": "llama3-8b-lora", "deadline": "1h", "max_gpus": 1.5}),
    ("size", {"workload": "llama3-8b-lora", "deadline": "1h", "gpu": "\x1b[31m"}),
    ("compare", {"topologies": "h100-x1", "workload": "llama3-8b-lora"}),
    ("compare", {"topologies": ["h100-x1", "x" * 9999], "workload": "llama3-8b-lora"}),
    ("compare", {"topologies": [_CYCLE], "workload": "llama3-8b-lora"}),
)  # fmt: skip


def options(name: str) -> Iterator[Case]:
    """Everything that an option may get, and what is much too long."""
    command, values = OPTIONS[name]
    for value in (*values, "x" * 6000, "x y " * 1500):
        argv = (*command, value) if command else tuple(value.split())
        files: dict[str, Content] = {"job.yaml": WORKLOAD.encode(), "jobs.yaml": JOBS.encode(),
                                     "m.sh": MEGATRON.encode()}  # fmt: skip
        yield Case(value[:60], argv, files)
