"""Options of the command line, each with a value worth asking, beside what a verb is asked."""

from __future__ import annotations

import io
import json
import shlex
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import click

from bench.silent.keys import ALONE, JOB, MACHINE, Ended
from sim import cli
from sim.inputs.price import today

ROOT = Path(__file__).parents[2]
#: where an answer goes, how it is written, and what it is held to: no part of it
ELSEWHERE = frozenset({
    "--output", "--report", "--format", "--json", "--junit", "--require", "--force", "--apply",
    "--memory-snapshot", "--plots", "--quiet", "--help", "--version",
})  # fmt: skip
#: how and where it is computed, whose answers are the same by contract
COMPUTED = frozenset({"--engine", "--level", "--processes", "--workers", "--scheduler", "--store"})
_BAD_INPUT = 2  # an exit code
#: files of a user, by their names in the folder that verbs are asked in
FILES = {
    "own.csv": "provider,instance,gpu,gpus_per_node,usd_per_gpu_hour,as_of\n"
    "mine,p5.48xlarge,h100-sxm-80gb,8,1.0,{today}\n",
    "slower.yaml": "gemm_clock: 0.5\nnvlink_bandwidth: 0.5\nnetwork_bandwidth: 0.5\n",
    "config.json": json.dumps({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 2048,
        "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
        "num_key_value_heads": 4, "vocab_size": 32000, "torch_dtype": "bfloat16",
        "max_position_embeddings": 8192,
    }),
    "train.log": "{'loss': 1.2, 'train_tokens_per_second': 30000.0}\n"
    "NET/Plugin: no plugin found\nNCCL INFO NET/Socket : Using [0]eth0:10.0.0.1<0>\n",
    "runs.yaml": f"- {{topology: {MACHINE}, workload: {JOB}, tokens_per_s_per_gpu: 4000}}\n",
    "held.yaml": f"- {{topology: {MACHINE}, workload: mistral-7b-lora, step_time_s: 6}}\n",
    "before.json": "", "after.json": "",  # results, as verbs write them
}  # fmt: skip


class Asked(NamedTuple):
    """A verb with what it needs, and options that are given besides, each with its value if any."""

    verb: str  # as it stands on the command line
    options: tuple[str, ...]


_PAIR = f"{MACHINE} {JOB}"
_SETS = ("--set nodes=2", "--calibration slower.yaml", "--model-config config.json")
_VARIED = ("--jitter 5%", "--slow rank:3=0.5", "--seed 7")
_PLACES = ("--region us", "--residency EU", "--currency EUR", "--prices own.csv")
_WEEK = f"plan {MACHINE} {ROOT}/docs/examples/week.yaml --set nodes=8"
_PLANS = ("--policy edf", "--policy priority", "--smallest", "--on-time 50%", "--or dgx-a100",
          "--growth 1,2", "--replicas 3", "--gantt", "--calibration slower.yaml",
          "--set offer.price_per_gpu_hour=9USD", "--vary nodes=8,9",
          "--model-config config.json")  # fmt: skip
_STAGES = f"trace {MACHINE} llama3-8b-sft --set parallelism.pipeline_parallel=2 --stages"
_MEASURED = "--measured tokens_per_s_per_gpu=4000"
_TRACED = ("--level ranks", "--ranks 3", "--cut", *_VARIED)
#: every option of every verb is among these (`unasked`)
ASKED = (
    Asked(f"run {_PAIR}", ("--engine reference", "--level ranks", "--level steps", *_VARIED,
          "--replicas 5", "--offer aws", "--prices own.csv", "--no-scaling", *_SETS)),
    Asked(f"run {_PAIR} --jitter 5%", ("--seed 7", "--replicas 5", "--level folded")),
    Asked(f"run {_PAIR} --slow rank:3=0.5", ("--seed 7", "--replicas 5", "--level folded")),
    Asked(f"run {_PAIR} --offer aws", ("--prices own.csv",)),
    Asked("run dgx-a100 llama3-8b-lora", ("--prices own.csv",)),
    Asked(f"memory {_PAIR}", ("--max batch", "--max context", "--min nodes", *_SETS)),
    Asked("improve dgx-h100 llama3-8b-sft", ("--same-numerics", *_SETS)),
    Asked(f"config {_PAIR}", _SETS),
    Asked(f"support {_PAIR}", _SETS),
    Asked(f"explain {_PAIR}", _SETS),
    Asked("explain flash3", _SETS),
    Asked(f"compare dgx-a100 {_PAIR}", ("--workload mistral-7b-lora", "--vary nodes=1,2",
          "--offer cheapest", "--prices own.csv", *_SETS)),
    Asked(f"need bandwidth {_PAIR} --set nodes=2", ("--efficiency 50%", "--set micro_batch=4",
          *_SETS[1:])),
    Asked(f"need gpus {_PAIR}", ("--deadline 10m", *_SETS)),
    Asked(f"need context {_PAIR}", _SETS[::2]),
    Asked(f"need price dgx-a100 {_PAIR}", _SETS),
    Asked("posttrain dgx-h100 llama3-8b-sft --set post_training.prompts=64", _SETS),
    Asked(_WEEK, _PLANS),
    Asked(f"{_WEEK} --smallest", (*_PLANS[:2], *_PLANS[3:])),
    Asked(f"{_WEEK} --policy fifo --policy edf", _PLANS[2:]),
    Asked(f"size {JOB} --max-gpus 16", ("--deadline 1h", "--budget 9USD", "--throughput 100000",
          "--objective time", "--objective co2", "--objective energy", *_PLACES[:2],
          "--prices own.csv", "--provider aws", "--spot", "--gpu h100", "--topology dgx-h100",
          "--gpus 8", "--max-gpus 8", "--global-batch 64", "--vary precision=bf16,fp8",
          "--risk 50%", "--slack 50%", "--slack 0", "--setup 2h", "--as-written", "--exhaustive",
          "--emit yaml", *_SETS)),
    Asked(f"size {JOB} --max-gpus 16 --topology dgx-h100", ("--spot", "--provider aws",
          "--region eu", "--gpu a100", "--exhaustive", "--prices own.csv")),
    Asked(f"collective {MACHINE} --sizes 1M:4M", ("--op all_reduce", "--sizes 8M", "--ranks 4",
          "--nccl 2.18", "--algorithm p2p", "--protocol simple", "--nccl-path symmetric",
          "--nccl-path registered", "--vary nodes=1,2", "--zip", *_SETS)),
    Asked(f"collective {MACHINE} --sizes 1M:4M --nccl 2.28 --vary nodes=1,2", ("--zip",
          "--nccl-path copy-engine")),
    Asked(f"collective {MACHINE} broadcast --sizes 1M --nccl 2.28", ("--nccl-path symmetric",)),
    Asked(f"diagnose {_PAIR} {_MEASURED}", ("--confusion", "--log train.log", *_SETS,
          "--also 'tokens_per_s_per_gpu=5000 nodes=2'",
          "--baseline 'tokens_per_s_per_gpu=5000 micro_batch=2'")),
    Asked(f"diagnose {_PAIR} --confusion", (_MEASURED, "--log train.log", "--also nodes=2",
          "--baseline tokens_per_s_per_gpu=5000")),
    Asked(f"calibrate {_PAIR} --measured runs.yaml", ("--fit gemm_clock", "--holdout held.yaml",
          "--set nodes=2", "--measured held.yaml", "--log train.log",
          *_SETS[1:])),
    Asked(f"trace {_PAIR}", (*_TRACED, "--stages", *_SETS)),
    Asked(f"trace {_PAIR} --format csv", _TRACED),
    Asked("trace dgx-h100 llama3-8b-sft", _TRACED),
    Asked("trace dgx-h100 llama3-8b-sft --cut", ("--all-micro-steps",)),
    Asked(_STAGES, (*_TRACED, "--all-micro-steps")),
    Asked(f"topo show {MACHINE}", _SETS),
    Asked(f"topo import {ROOT}/tests/data/topo/four-a100-trimmed.txt", ("--gpu a100-sxm-80gb",
          "--nic 200Gb/s", "--name mine", "--all-nics")),
    Asked(f"topo import {ROOT}/tests/data/topo/dump.xml", ("--nvidia-smi",)),
    Asked("prices list", (*_PLACES, "--gpu h100", "--provider aws", "--all-dates")),
    Asked("prices show p5.48xlarge", ("--prices own.csv",)),
    Asked(f"prices job {_PAIR}", (*_PLACES, "--workload mistral-7b-lora", "--setup-hours 3",
          "--spot", "--provider aws", *_SETS)),
    Asked("study h100-vs-a100", ("--list",)),
    Asked("diff before.json after.json", ("--tolerance 1000%",)),
    Asked("validate memory", ("--cross-validate", "--misses 1")),
    Asked("validate collectives", ("--misses 1",)),
    Asked(f"sweep {_PAIR} --vary micro_batch=1,2 -j 1 -q --store s.sqlite", ("--zip",
          "--vary nodes=1,2", "--where 'micro_batch < 2'", "--require 'mfu > 0.9'",
          "--pareto cost_usd,mfu", "--exact 5", "--screen step_time_s",
          "--processes 2", *_SETS)),
    Asked(f"init . --machine {ALONE}", ("--machine dgx-a100", "--job mistral-7b-lora")),
    Asked(f"export {_PAIR} --emit yaml", ("--emit trl", *_SETS)),
)  # fmt: skip
#: options that another machine is needed for: a server, a catalogue's file, logs of a cluster
NOT_HERE = frozenset({
    "serve --port", "serve --workers", "serve --limit", "prices import --provider",
    "prices import --as-of", "prices import --residency", "prices import --currency",
    "calibrate --nccl-tests", "calibrate --kineto", "calibrate --nvbandwidth",
    "trace diff --steps", "trace diff --set", "trace diff --calibration",
    "trace diff --model-config", "sweep --dry-run",  # which counts, whatever else is asked
    "sweep --workers", "sweep --scheduler", "sweep --store",
    "need context --calibration",  # corrects times; of bytes there are none
})  # fmt: skip


class Answer(NamedTuple):
    """What a verb said."""

    code: int
    out: str
    err: str


def answer(arguments: list[str]) -> Answer:
    """What `scaling-sim` says to these arguments, in this process and folder."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    asked = patch.object(sys, "argv", ["scaling-sim", *arguments])
    with asked, redirect_stdout(out), redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Answer(code, out.getvalue(), err.getvalue())


def alone(arguments: list[str]) -> Answer:
    """The same in a folder with `FILES` and nothing else."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        for name, text in FILES.items():
            Path(name).write_text(text.replace("{today}", str(today())))
        for batch, name in ((2, "before.json"), (4, "after.json")):
            if name in arguments:
                sets = ["--set", f"micro_batch={batch}", "--json", "-o", name]
                answer(["run", *_PAIR.split(), *sets])
        code, out, err = answer(arguments)
        made = sorted(p for p in Path().rglob("*") if p.is_file() and p.name not in FILES)
        wrote = "".join(p.read_text() for p in made if p.suffix != ".sqlite")
        return Answer(code, (out + wrote).replace(folder, ""), err.replace(folder, ""))


def of_options(verbs: frozenset[str] = frozenset()) -> Iterator[Ended]:
    """What becomes of each option of `ASKED`, of some verbs or of all."""
    for verb, options in ASKED:
        words = shlex.split(verb)
        if verbs and words[0] not in verbs:
            continue
        before = alone(words)
        for option in options:
            name, *value = shlex.split(option)
            after = alone([*words, name, *value])
            yield Ended(verb, name, " ".join(value), _how(name, before, after))


def _how(option: str, before: Answer, after: Answer) -> str:
    if after.code == _BAD_INPUT and before.code != _BAD_INPUT:
        return "refused"
    if after == before:
        return "by contract" if option in COMPUTED else "silent"
    return "moved" if (after.code, after.out) != (before.code, before.out) else "warned"


def unasked() -> set[str]:
    """Options that verbs have and `ASKED` has not, each behind its verb."""
    return {
        f"{verb} {option}"
        for verb, options in _options(cli.group, ())
        for option in options
        if f"{verb} {option}" not in NOT_HERE
        and not any(
            asked.verb.startswith(verb) and one.startswith(f"{option} ".rstrip())
            for asked in ASKED
            for one in asked.options
        )
    }


def _options(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
    """Every verb and its options that are about the answer."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None:
                yield from _options(inner, (*path, name))
        return
    found = [p.opts for p in command.params if isinstance(p, click.Option)]
    yield " ".join(path), [max(o, key=len) for o in found if ELSEWHERE.isdisjoint(o)]
    for name, inner in getattr(command, "commands", {}).items():
        yield from _options(inner, (*path, name))
