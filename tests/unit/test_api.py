"""The face: every verb is a function of `sim`, and gives what the command line prints as JSON."""

import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import sim
from sim.cli import VERBS, group
from sim.documents import Document
from sim.inputs.price_files import to_csv

ROOT = Path(__file__).parents[2]

# `sim.memory` and `sim.study` are packages, `import` is a word of Python
NAMES = {
    "run": "simulate",
    "memory": "memory_of",
    "study": "run_study",
    "import": "import_job",
    "list": "entries",
    "show": "entry",
}
DATA = Path(__file__).parents[1] / "data"
MACHINE, JOB = "dgx-h100", "mistral-7b-lora"
ONE = {"nodes": 1, "model.layers": 2}
SETS = [f"--set={key}={value}" for key, value in ONE.items()]
STUDY = """
title: Small
cases: [{name: a, topology: dgx-h100, workload: mistral-7b-lora, set: [nodes=1]}]
claims:
- {id: one, claim: It fits., lines: [{label: memory, case: a, metric: memory_gib, high: 80}]}
"""
JOBS = """
jobs:
- {name: a, workload: mistral-7b-lora, nodes: 1, set: {tokens: 1e8}}
"""
RUNS = """
- {topology: dgx-a100, workload: mistral-7b-lora, tokens_per_s_per_gpu: 9000}
"""

TRACE = json.dumps([
    {"ph": "X", "cat": category, "name": name, "pid": 0, "tid": 7, "ts": 1, "dur": 5}
    for category, name in (("user_annotation", "ProfilerStep#1"), ("kernel", "nvjet_hsh"))
])  # fmt: skip

TUNED = "{model_name_or_path: Qwen/Qwen3-8B, finetuning_type: full, cutoff_len: 2048}"

CASES = {
    "run": (
        [MACHINE, JOB, "--no-scaling", "--jitter=5%", *SETS],
        lambda _: sim.simulate(MACHINE, JOB, scaling=False, jitter="5%", overrides=ONE),
    ),
    "memory": (
        [MACHINE, JOB, "--max=micro_batch", *SETS],
        lambda _: sim.memory_of(MACHINE, JOB, bound="micro_batch", overrides=ONE),
    ),
    "improve": ([MACHINE, JOB, *SETS], lambda _: sim.improve(MACHINE, JOB, overrides=ONE)),
    "explain": ([MACHINE, JOB, *SETS], lambda _: sim.explain(MACHINE, JOB, overrides=ONE)),
    "support": ([MACHINE, JOB, *SETS], lambda _: sim.support(MACHINE, JOB, overrides=ONE)),
    "trace": ([MACHINE, JOB, *SETS], lambda _: sim.trace(MACHINE, JOB, overrides=ONE)),
    "trace diff": (["trace.json"] * 2, lambda _: sim.trace_diff("trace.json", "trace.json")),
    "list": (["gpus", "h100"], lambda _: sim.entries("gpus", "h100")),
    "show": (["A100 80GB"], lambda _: sim.entry("A100 80GB")),
    "diff": (["before.json", "after.json"], lambda _: sim.diff("before.json", "after.json")),
    "doctor": ([], lambda _: sim.doctor()),
    "import": (["tuned.yaml"], lambda _: sim.import_job("tuned.yaml")),
    "config": ([MACHINE, JOB, *SETS], lambda _: sim.config(MACHINE, JOB, overrides=ONE)),
    "schema": (["workload"], lambda _: sim.schema("workload")),
    "topo show": (["dgx-a100"], lambda _: sim.topo_show("dgx-a100")),
    "collective": (
        [MACHINE, "--op=all_reduce", "--sizes=1M", "--vary=nodes=1,2"],
        lambda _: sim.collective(MACHINE, op="all_reduce", sizes=[1 << 20], vary={"nodes": [1, 2]}),
    ),
    "compare": (
        ["dgx-a100", MACHINE, JOB, *SETS],
        lambda _: sim.compare(["dgx-a100", MACHINE], JOB, overrides=ONE),
    ),
    "prices list": (["--gpu=h100"], lambda _: sim.prices_list(gpu="h100")),
    "prices show": (["lambda"], lambda _: sim.prices_show("lambda")),
    "prices job": ([MACHINE, JOB, *SETS], lambda _: sim.prices_job(MACHINE, JOB, overrides=ONE)),
    "study": (["study.yaml"], lambda _: sim.run_study("study.yaml")),
    "need bandwidth": (
        [MACHINE, JOB, "--set=nodes=2", "--efficiency=0.5"],
        lambda _: sim.need_bandwidth(MACHINE, JOB, efficiency=0.5, overrides={"nodes": 2}),
    ),
    "need gpus": (
        [MACHINE, JOB, "--deadline=500h", *SETS],
        lambda _: sim.need_gpus(MACHINE, JOB, deadline=500 * 3600.0, overrides=ONE),
    ),
    "need context": (
        [MACHINE, JOB, *SETS],
        lambda _: sim.need_context(MACHINE, JOB, overrides=ONE),
    ),
    "need price": (
        ["oci-bm-gpu-h100-8", "aws-p4de", JOB, *SETS],
        lambda _: sim.need_price("oci-bm-gpu-h100-8", "aws-p4de", JOB, overrides=ONE),
    ),
    "plan": ([MACHINE, "jobs.yaml"], lambda _: sim.plan(MACHINE, "jobs.yaml")),
    "size": (
        [JOB, "--topology=dgx-h100", "--max-gpus=8", "--deadline=100h"],
        lambda _: sim.size(JOB, topologies=MACHINE, max_gpus=8, deadline="100h"),
    ),
    "sweep": (
        [MACHINE, JOB, "--vary=micro_batch=1,2", "--store=a.sqlite", "-j1", "-q", *SETS],
        lambda _: sim.sweep(
            MACHINE, JOB, vary={"micro_batch": [1, 2]}, store="b.sqlite", processes=1, overrides=ONE
        ),
    ),
    "calibrate": (
        ["dgx-a100", "--measured=runs.yaml", "--fit=hbm_bandwidth"],
        lambda _: sim.calibrate("dgx-a100", measured=["runs.yaml"], fit=["hbm_bandwidth"]),
    ),
    "diagnose": (
        [MACHINE, JOB, "--measured=tokens_per_s_per_gpu=1000", *SETS],
        lambda _: sim.diagnose(MACHINE, JOB, measured="tokens_per_s_per_gpu=1000", overrides=ONE),
    ),
    "posttrain": (
        [MACHINE, "qwen2.5-7b-grpo", *SETS],
        lambda _: sim.posttrain(MACHINE, "qwen2.5-7b-grpo", overrides=ONE),
    ),
    "validate": (["memory"], lambda _: sim.validate("memory")),
}  # fmt: skip
OTHERS = {"topo import", "prices import", "export", "init"}  # they write files for other verbs
SERVERS = {"completion", "mcp", "serve"}  # they answer a shell, an assistant, a browser


def commands():
    """Every verb, and every verb of a verb."""
    for verb in (v for v in VERBS if v not in SERVERS):
        command = group.get_command(None, verb)
        if not isinstance(command, click.Group):  # `trace` stands by itself and has one below it
            yield verb
        yield from (f"{verb} {sub}" for sub in getattr(command, "commands", ()))


def function_of(verb):
    return getattr(sim, NAMES.get(verb, verb.replace(" ", "_")))


def test_every_verb_is_a_public_function():
    assert set(commands()) == {*CASES, *OTHERS}
    for verb in commands():
        function = function_of(verb)
        assert function.__name__ in sim.__all__
        assert function.__doc__ is not None
        annotation = inspect.signature(function).return_annotation
        assert annotation not in ("None", inspect.Signature.empty)


def test_every_function_of_the_face_is_given_out():
    """The table of `sim` has each public function of the modules it takes names from."""
    homes = {name: module for name, module in sim._HOMES.items() if module.startswith("sim.api.")}
    for module in set(homes.values()):
        found = inspect.getmembers(importlib.import_module(module), inspect.isfunction)
        own = {n for n, f in found if f.__module__ == module and not n.startswith("_")}
        assert own == {name for name, home in homes.items() if home == module}


def test_the_page_has_an_example_of_each():
    page = (DATA.parents[1] / "docs" / "python.md").read_text()
    assert [verb for verb in commands() if f"sim.{function_of(verb).__name__}(" not in page] == []


@pytest.mark.parametrize("verb", CASES)
def test_the_command_prints_the_document(verb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in (("study", STUDY), ("jobs", JOBS), ("runs", RUNS), ("tuned", TUNED)):
        (tmp_path / f"{name}.yaml").write_text(text)
    (tmp_path / "trace.json").write_text(TRACE)
    for name, step in (("before", 1.0), ("after", 1.5)):
        text = json.dumps({"schema": "scaling-sim/result/1", "step": {"time_s": step}})
        (tmp_path / f"{name}.json").write_text(text)
    options, call = CASES[verb]
    form = {"trace": [], "prices show": []}.get(verb, ["--format=json"])
    if verb.startswith("need"):
        form = ["--json"]
    done = CliRunner().invoke(group, [*verb.split(), *options, *form])
    assert done.exit_code == 0, done.output
    document = call(tmp_path)
    assert isinstance(document, Document)
    assert done.stdout.rstrip("\n") == document.to_json()
    assert json.loads(document.to_json()) is not None
    frame = document.to_frame()
    assert len(frame) == len(document.records()) > 0
    assert "<table>" in document._repr_html_()


SKYPILOT = """\
InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,Price,Region,SpotPrice
h100-8,H100,8,128,1600,23.60,eu-north1,10.00
tpu,TPU-v5,8,1,1,9.0,eu-north1,
"""


def test_what_is_imported_is_a_document_too(tmp_path):
    dump = str(DATA / "topo" / "dump.xml")
    machine = sim.topo_import(dump, gpu="a100-sxm-80gb", nic="200 Gb/s")
    done = CliRunner().invoke(
        group, ["topo", "import", dump, "--gpu=a100-sxm-80gb", "--nic=200 Gb/s"]
    )
    assert done.stdout.strip() == machine.yaml.strip()
    assert machine.to_dict()["assumed"] == list(machine.assumed)

    file = tmp_path / "vms.csv"
    file.write_text(SKYPILOT)
    offers = sim.prices_import(file, "nebius", as_of="2026-11-01")
    done = CliRunner().invoke(
        group, ["prices", "import", str(file), "--provider=nebius", "--as-of=2026-11-01"]
    )
    assert done.stdout.strip() == to_csv(offers.rows)
    assert offers.left_out == ("1 row of tpu-v5: no such GPU here",)


def test_overrides_are_texts_or_a_mapping():
    given = {"nodes": 2, "parallelism": {"strategy": "zero3"}, "compile": True}
    texts = ["nodes=2", "parallelism={strategy: zero3}", "compile=true"]
    both = [sim.memory_of(MACHINE, JOB, overrides=sets, fixes=False) for sets in (given, texts)]
    assert both[0] == both[1]


@pytest.mark.parametrize("verb", ["run", "memory", "explain", "trace", "prices list"])
def test_an_unknown_name_is_said_before_the_simulator_is_imported(verb):
    arguments = verb.split() if " " in verb else [verb, "none", "none"]
    code = (
        "import sys\nfrom sim.cli import main\n"
        "try: main()\nexcept SystemExit as stop: code = stop.code\nelse: code = 0\n"
        "sys.exit(10 * ('numpy' in sys.modules) + (code or 0))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, check=False
    )
    assert done.returncode == (0 if " " in verb else 2)


@pytest.mark.parametrize(
    ("machine", "job"),
    [
        ("dgx-h100", {"micro_batch: 2": "micro_btach: 2"}),
        ("dgx-h100", {"strategy: fsdp2": "strategy: fsdp2, sub_group_size: 1"}),
        ("nodes: 2", {}),
    ],
)
def test_a_fault_in_either_file_is_said_before_numbers_are_imported(machine, job, tmp_path):
    text = (ROOT / "workloads" / "llama3-8b-sft.yaml").read_text()
    for sound, faulty in job.items():
        assert sound in text
        text = text.replace(sound, faulty)
    workload = tmp_path / "job.yaml"
    workload.write_text(text)
    if ":" in machine:
        (tmp_path / "machine.yaml").write_text(machine)
        machine = str(tmp_path / "machine.yaml")
    code = (
        "import sys\nfrom sim.cli import main\n"
        "try: main()\nexcept SystemExit as stop: code = stop.code\n"
        "heavy = {'numpy', 'numba', 'simpy', 'networkx'} & set(sys.modules)\n"
        "sys.exit(f'{code} {sorted(heavy)}')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "run", machine, str(workload)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr.splitlines()[-1] == "2 []"


@pytest.mark.parametrize(
    "given",
    [
        {"overrides": "nodes=2"}, {"overrides": ["nodes=2"]}, {"overrides": {"nodes": 2}},
        {"nodes": 2}, {"overrides": "nodes=4", "nodes": 2},
    ],
)  # fmt: skip
def test_overrides_are_given_in_any_way(given):
    nodes = next(k for k in sim.config(MACHINE, JOB, **given).keys if k.path == "topology.nodes")
    assert nodes.value == "2"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"overrides": 4}, "int 4 is no list of texts; write such as ['nodes=2']"),
        ({"overrides": [("nodes", 2)]}, "is no list of texts"),
        ({"overrides": {"nodes": object}}, "nodes: type <class 'object'> is no text, number"),
        ({"nodse": 2}, "nodse"),
        ({"level": "x"}, "'x' is not one of 'folded', 'ranks', 'steps'"),
        ({"engine": "gpu"}, "'gpu' is not one of 'auto', 'reference'"),
        ({"jitter": 5.0}, "is not between 0 and 100%"),
        ({"jitter": "much"}, "write 5% or 0.05"),
        ({"slow": 3}, "slow: takes a list of texts, not int 3"),
        ({"scalling": True}, "scalling"),
    ],
)
def test_wrong_arguments_are_told(given, said):
    with pytest.raises(sim.InputError) as caught:
        sim.simulate(MACHINE, JOB, scaling=False, fixes=False, **given)
    assert said in str(caught.value)


def test_a_number_is_a_share():
    by_text, by_number = (
        sim.simulate(MACHINE, JOB, jitter=j, scaling=False, fixes=False, nodes=1)
        for j in ("5%", 0.05)
    )
    assert by_text == by_number
    with pytest.raises(sim.InputError, match="'width' is not one of"):
        sim.memory_of(MACHINE, JOB, bound="width")
