"""A diagnosis finds the cause that was planted, and says how to tell it from the next."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise

import pytest
from click.testing import CliRunner

from sim.calibration.causes import CAUSES, NOTHING
from sim.calibration.diagnose import diagnose
from sim.calibration.figures import Figure, read_figures
from sim.calibration.probes import PROBES
from sim.cli import group
from sim.errors import InputError
from sim.inputs.loader import load
from sim.report.diagnose import conclusion, view
from sim.report.formats.table import render
from sim.step.step import step

BY_KEY = {cause.key: cause for cause in CAUSES}
JOB = {
    "name": "seven", "model": "llama-2-7b", "sequence_length": 4096, "micro_batch": 2,
    "tokens": 1e9, "parallelism": {"strategy": "fsdp2", "replicate": 2}, "compile": True,
}  # fmt: skip
SETS = ["nodes=2", "model.layers=5"]  # shallow: the tests are of the ranking


def planted(key: str, strength: float, topology: object = "dgx-h100") -> Figure:
    """A run with a cause, timed by the model."""
    loaded = load(topology, JOB, SETS)  # type: ignore[arg-type]
    changed = BY_KEY[key].change(loaded.topology, loaded.workload, strength)
    assert changed is not None
    seconds = changed.time(step(changed.topology, changed.workload).breakdown)
    return Figure(loaded.topology, loaded.workload, seconds, key)


@pytest.mark.parametrize(
    ("key", "strength"),
    [("tcp", 5e9), ("slow-network", 0.08), ("host-bound", 14.0), ("data", 3.0), ("power", 0.35),
     ("straggler", 0.4), ("eager-attention", 1.0), ("no-nvlink", 1.0)],
)  # fmt: skip
def test_planted_cause_is_among_those_that_explain(key: str, strength: float) -> None:
    """One figure cannot name one cause, but its own must fit, at its own strength."""
    found = diagnose([planted(key, strength)])
    own = next(e for e in found.explanations if e.cause.key == key)
    assert own.explains
    assert own.off < 0.06
    if len(own.cause.strengths) > 1:
        assert own.strength == pytest.approx(strength, rel=0.35)
    assert own.probability >= 0.1 * max(e.probability for e in found.explanations)


def test_nothing_to_explain() -> None:
    loaded = load("dgx-h100", JOB, SETS)
    seconds = step(loaded.topology, loaded.workload).time_s
    found = diagnose([Figure(loaded.topology, loaded.workload, 1.02 * seconds)])
    assert found.nothing > 0.5
    said = render(view(found))
    assert "Nothing needs explaining" in said
    assert "To tell " not in said  # a test of causes that nobody looks for


def test_faster_than_it_can_be() -> None:
    loaded = load("dgx-h100", JOB, SETS)
    seconds = step(loaded.topology, loaded.workload).time_s
    found = diagnose([Figure(loaded.topology, loaded.workload, 0.02 * seconds)])
    said = render(view(found))
    assert "Faster than the machine should be" in said
    assert "50\n  times faster" in said
    assert "off by a factor of" in said
    assert "host-bound" not in said  # nothing that is slower explains it
    # two and a half times may be a matter of what is counted
    found = diagnose([Figure(loaded.topology, loaded.workload, 0.4 * seconds)])
    assert found.explanations[0].cause.key == "shorter"


def test_a_run_on_one_node_clears_the_node() -> None:
    """With a good figure of one node beside it, only what is between nodes is left."""
    slow = planted("tcp", 5e9)
    one = load("dgx-h100", JOB, ["nodes=1", "parallelism.replicate=1", "model.layers=5"])
    seconds = step(one.topology, one.workload).time_s
    good = Figure(one.topology, one.workload, seconds, "one node")
    alone, beside = diagnose([slow]), diagnose([slow, good])
    share = {
        name: sum(e.probability for e in d.explanations if e.cause.key in ("tcp", "slow-network"))
        for name, d in (("alone", alone), ("beside", beside))
    }
    assert share["beside"] > max(0.8, share["alone"])
    as_baseline = diagnose([slow], good)
    assert as_baseline.pace == pytest.approx(1.0, abs=0.01)
    assert as_baseline.explanations[0].cause.key == "tcp"


def test_baseline_sets_the_pace() -> None:
    """A cluster on which everything takes 1.5 times as long: the baseline explains it away."""
    loaded = load("dgx-h100", JOB, SETS)
    one = load("dgx-h100", JOB, ["nodes=1", "parallelism.replicate=1", "model.layers=5"])
    seconds = [1.5 * step(x.topology, x.workload).time_s for x in (loaded, one)]
    figure = Figure(loaded.topology, loaded.workload, seconds[0])
    assert diagnose([figure]).nothing < 0.1
    found = diagnose([figure], Figure(one.topology, one.workload, seconds[1]))
    assert found.pace == pytest.approx(1 / 1.5, rel=0.05)
    assert found.nothing > max(e.probability for e in found.explanations)


def test_the_test_separates_its_pair() -> None:
    found = diagnose([planted("tcp", 5e9)])
    assert found.test is not None
    assert len(set(found.test.expected[:2])) == 2
    assert found.test.separation > 1.5
    assert set(found.test.tells) <= set(BY_KEY)


def test_every_cause_is_slower_or_as_fast() -> None:
    """On this machine no cause may make the step shorter, and harder is never faster."""
    loaded = load("dgx-h100", JOB, SETS)
    plain = step(loaded.topology, loaded.workload).breakdown
    for cause in CAUSES:
        if cause.faster:
            continue
        if cause.key == "full-shard":  # a job may well be better off without replicas
            continue
        times = [plain.time_s]
        for strength in cause.strengths:
            changed = cause.change(loaded.topology, loaded.workload, strength)
            if changed is not None:
                times.append(changed.time(step(changed.topology, changed.workload).breakdown))
        assert all(b >= a * 0.995 for a, b in pairwise(times)), cause.key


@pytest.mark.parametrize("strategy", ["fsdp1", "fsdp2"])
def test_parameters_that_are_kept_are_not_gathered_again(strategy: str) -> None:
    """The root and five blocks are gathered once; there is nothing to keep on one GPU."""
    topology, workload, _ = load("dgx-h100", {**JOB, "parallelism": strategy}, SETS)
    cause = BY_KEY["kept"]
    changed = cause.change(topology, workload, 1.0)
    assert changed is not None
    gathers = [
        step(topology, job).breakdown.collectives["all_gather"]["count"]
        for job in (workload, changed.workload)
    ]
    assert gathers == [1 + 2 * 5, 1 + 5]
    assert cause.change(topology, changed.workload, 1.0) is None
    alone = load("dgx-h100", {**JOB, "parallelism": strategy}, ["node.gpus=1", "model.layers=5"])
    assert cause.change(*alone[:2], 1.0) is None


def test_causes_leave_out_what_cannot_be() -> None:
    """One GPU has no network, no NVLink and no other GPU to wait for."""
    job = {**JOB, "parallelism": "fsdp2"}
    loaded = load("h100-x1", job, ["model.layers=3", "compile=false"])
    keys = {
        c.key
        for c in CAUSES
        if not c.faster and c.change(loaded.topology, loaded.workload, c.strengths[0]) is not None
    }
    assert keys == {
        "host-bound", "data", "power", "eager-attention", "recompute", "fp32", "padding",
    }  # fmt: skip
    assert NOTHING.change(loaded.topology, loaded.workload, 1.0) is not None
    seconds = 3 * step(loaded.topology, loaded.workload).time_s
    assert diagnose([Figure(loaded.topology, loaded.workload, seconds)]).explanations


@pytest.mark.parametrize(
    ("measured", "counted"),
    [("tokens_per_s_per_gpu=2500", True), ("step_time_s=14", False), ("14s/it", False)],
)
def test_no_way_of_counting_tokens_explains_a_time(measured: str, *, counted: bool) -> None:
    figures = read_figures("dgx-h100", {**JOB, "parallelism": "fsdp2"}, ["nodes=2"], measured)
    keys = {e.cause.key for e in diagnose(figures).explanations}
    assert ({"padding", "per-node"} <= keys) is counted
    assert "data" in keys


def test_a_job_that_cannot_have_run() -> None:
    """Full fine-tuning of 8B on one GPU does not fit: the description is wrong, and it says so."""
    figures = read_figures("h100-x1", "llama3-8b-sft", ["model.layers=24"], "step_time_s=100")
    found = diagnose(figures)
    assert not found.verdict.fits
    assert "does not fit in memory" in render(view(found))


def test_names_are_unique() -> None:
    assert len(BY_KEY) == len(CAUSES)
    assert len({p.title for p in PROBES}) == len(PROBES)


# --- threads in which people asked ---------------------------------------------------------------

FMS = {
    "name": "fms-fsdp-7b", "model": "llama-2-7b", "sequence_length": 4096, "micro_batch": 2,
    "tokens": 1e9, "parallelism": {"strategy": "fsdp1", "replicate": 8, "reduce_dtype": "bf16"},
    "compile": True,
}  # fmt: skip


def test_fms_fsdp_78() -> None:
    """7B on 8 x 8 H100 with HSDP: about 1,000 tokens/s per GPU, 7,500 published."""
    figures = read_figures("dgx-h100", FMS, ["nodes=8"], "tokens_per_s_per_gpu=1000")
    found = diagnose(figures)
    first = found.explanations[0]
    assert first.cause.key == "tcp"
    assert 2e9 < first.strength < 7e9  # an Ethernet port of 25 to 50 Gb/s
    assert found.figures[0].step_time_s / found.predicted[0] > 5
    assert found.test is not None
    assert "two nodes: busbw" in found.test.title
    published = read_figures("dgx-h100", FMS, ["nodes=8"], "tokens_per_s_per_gpu=7500")[0]
    assert diagnose(figures, published).explanations[0].cause.key == "tcp"


def test_torchtitan_676() -> None:
    """Llama 70B on 32 H200 with EFA: about 200 tokens/s per GPU; suspected: no EFA."""
    job = {
        "name": "titan-70b", "model": "llama-3.1-70b", "sequence_length": 8192, "tokens": 1e9,
        "parallelism": {"strategy": "fsdp2", "wrap": "torchtitan"},
        "activation_checkpointing": "full",
    }  # fmt: skip
    found = diagnose(read_figures("aws-p5en", job, ["nodes=4"], "tokens_per_s_per_gpu=200"))
    assert 600 < found.figures[0].rate(found.predicted[0]) < 1200
    best = {e.cause.key: e for e in found.explanations[:3]}
    assert best["tcp"].explains
    assert 5e9 < best["tcp"].strength < 25e9  # what ENA gives, without EFA
    assert found.test is not None


def test_olmo_845() -> None:
    """1B on nodes of 4 A100-40: 12,000 on one node, 9,000 on two: is this expected? No."""
    machine = {
        "name": "4xa100-40", "nodes": 2,
        "node": {
            "gpu": "a100-sxm-40gb", "gpus": 4,
            "nvlink": {"generation": 3, "links_per_gpu": 12, "fabric": "mesh"},
            "pcie": {"generation": 4, "lanes": 16, "gpus_per_switch": 1, "nics_per_switch": 1},
            "nics": {"count": 4, "rate": "200 Gb/s"},
        },
        "network": {"kind": "fat-tree"},
    }  # fmt: skip
    model = {
        "name": "olmo-1b", "layers": 16, "hidden_size": 2048, "heads": 16, "kv_heads": 16,
        "head_dim": 128, "ffn_size": 8192, "vocab_size": 50304, "max_positions": 2048,
        "ffn": "swiglu", "norm": "layernorm", "positions": "rope", "bias": False,
        "tied_embeddings": True,
    }  # fmt: skip
    job = {
        "name": "olmo-1b", "model": model, "sequence_length": 2048, "micro_batch": 8,
        "tokens": 1e9, "parallelism": "fsdp1",
    }  # fmt: skip
    figures = read_figures(machine, job, [], "tokens_per_s_per_gpu=9000")
    one = read_figures(machine, job, [], "tokens_per_s_per_gpu=12000 nodes=1")[0]
    found = diagnose(figures, one)
    assert figures[0].rate(found.predicted[0]) > 11_500  # two nodes should cost next to nothing
    assert {e.cause.key for e in found.explanations[:3]} == {"tcp", "slow-network", "straggler"}


# --- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [2500, 4000, 6400])
def test_odds_add_up_and_warnings_are_told(rate: int) -> None:
    job = ["diagnose", "dgx-h100", "llama3-8b-sft", "--set", "network.sharp=true"]
    job += ["--measured", f"tokens_per_s_per_gpu={rate}"]
    text = CliRunner().invoke(group, job).output
    odds = [int(odd) for odd in re.findall(r"^(?:\d\.|  ) +(\d+) %  ", text, re.MULTILINE)]
    assert sum(odds) == 100
    assert text.count("! idle-key network.sharp") == 1
    found = json.loads(CliRunner().invoke(group, [*job, "--json"]).output)
    assert odds[-1] == pytest.approx(100 * found["unnamed"], abs=1)
    every = sum(cause["probability"] for cause in found["causes"]) + found["nothing"]
    assert every == pytest.approx(1.0)


def test_command_and_its_json() -> None:
    arguments = [
        "diagnose", "dgx-h100", "llama3-8b-sft", "--set", "model.layers=4", "--set", "nodes=1",
        "--measured", "tokens_per_s_per_gpu=2000", "--json",
    ]  # fmt: skip
    result = CliRunner().invoke(group, arguments)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["figures"][0]["measured_tokens_per_s_per_gpu"] == pytest.approx(2000)
    total = document["nothing"] + sum(c["probability"] for c in document["causes"])
    assert total == pytest.approx(1.0)
    assert document.keys() == diagnose([planted("data", 3.0)]).to_dict().keys()


@pytest.mark.parametrize(
    ("extra", "fault"),
    [
        (["--measured", "flops=0.4"], "give one of"),
        (["--measured", "tokens_per_s_per_gpu=fast"], "no positive number"),
        (["--measured", "step_time_s=-1"], "no positive number"),
        (["--measured", "step_time_s=1", "--also", "nodes=1"], "--also nodes=1"),
        (["--measured", "step_time_s=1", "--baseline", "step_time_s=0"], "--baseline"),
        (["--measured", "step_time_s=1 nodez=1"], "nodez"),
    ],
)
def test_command_says_what_is_wrong(extra: list[str], fault: str) -> None:
    result = CliRunner().invoke(group, ["diagnose", "dgx-h100", "llama3-8b-sft", *extra])
    assert isinstance(result.exception, InputError)
    assert fault in str(result.exception)


@pytest.mark.parametrize("key", ["cudnn-attention", "no-recompute", "compiled"])
def test_a_run_that_is_faster_than_declared(key: str) -> None:
    """Declared eager, checkpointed, on FlashAttention 2: what ran was better, and is named."""
    job = {
        **JOB, "compile": False, "attention": "flash2", "sequence_length": 131072,
        "micro_batch": 1, "activation_checkpointing": "full", "model": "llama-3.1-8b",
        "stack": {"torch": "2.6", "cuda": "12.4", "nccl": "2.21"},
    }  # fmt: skip
    if key == "compiled":
        job["sequence_length"] = 4096
    loaded = load("dgx-h100", job, SETS)
    changed = BY_KEY[key].change(loaded.topology, loaded.workload, 1.0)
    assert changed is not None
    seconds = step(changed.topology, changed.workload).time_s
    assert seconds < 0.95 * step(loaded.topology, loaded.workload).time_s
    found = diagnose([Figure(loaded.topology, loaded.workload, seconds)])
    assert key in [e.cause.key for e in found.explanations if e.explains]
    assert all("slow" not in e.cause.key for e in found.explanations if e.probability > 0.3)


def test_no_kernel_is_blamed_that_would_be_slower() -> None:
    """On an A100 cuDNN is no faster than FlashAttention 2, and Hopper's kernel does not run."""
    loaded = load("dgx-a100", {**JOB, "attention": "flash2"}, SETS)
    for key in ("cudnn-attention", "flash3-attention"):
        assert BY_KEY[key].change(loaded.topology, loaded.workload, 1.0) is None
    # samples padded to about 400 tokens: cuDNN's is the faster on them, Hopper's at 8,192
    short = {"data": {"packing": False, "sequence_lengths": {"mean": 300, "maximum": 512}}}
    for rows, slower in (({}, False), (short, True)):
        job = {**JOB, "sequence_length": 8192, "attention": "cudnn", "stack": {"torch": "2.6"}}
        loaded = load("dgx-h100", {**job, **rows}, SETS)
        changed = BY_KEY["flash3-attention"].change(loaded.topology, loaded.workload, 1.0)
        assert (changed is None) is slower


@pytest.mark.parametrize(
    ("job", "seconds"),
    [
        # huggingface/transformers PR 48324: 606 s where SDPA ran FlashAttention 2, 373 to 380 s
        # where it ran cuDNN's kernel, as PyTorch 2.11 does on Hopper
        (
            {
                "model": "qwen3-8b", "sequence_length": 1048576, "loss": "fused-linear",
                "precision": {"bf16": {"master": "bf16"}}, "optimizer": "adamw-bf16",
                "parallelism": {
                    "strategy": "fsdp2", "context_parallel": 8, "context_parallel_kind": "ring"
                },
                "activation_checkpointing": {"full": {"offload": True}}, "attention": "sdpa",
                "stack": {"torch": "2.11", "cuda": "12.8", "nccl": "2.27"},
            },
            606.0,
        ),
        (
            {
                "model": "llama-3.1-8b", "sequence_length": 131072, "attention": "flash3",
                "activation_checkpointing": "full",
            },
            None,
        ),
    ],
    ids=["sdpa", "flash3"],
)  # fmt: skip
def test_an_older_kernel_of_attention_than_declared(job: dict, seconds: float | None) -> None:
    loaded = load("dgx-h100", {"name": "long", "steps": 10, **job}, ["nodes=1"])
    changed = BY_KEY["older-attention"].change(loaded.topology, loaded.workload, 1.0)
    assert changed is not None
    seconds = seconds or step(changed.topology, changed.workload).time_s
    found = diagnose([Figure(loaded.topology, loaded.workload, seconds)])
    assert found.explanations[0].cause.key == "older-attention"
    assert found.explanations[0].explains


def test_the_slowest_sockets() -> None:
    """1 GbE: a tenth of what 10 GbE gives."""
    loaded = load("dgx-a100", {**JOB, "parallelism": {"strategy": "fsdp2"}}, ["nodes=2"])
    changed = BY_KEY["slow-sockets"].change(loaded.topology, loaded.workload, 0.11e9)
    assert changed is not None
    seconds = step(changed.topology, changed.workload).time_s
    first = diagnose([Figure(loaded.topology, loaded.workload, seconds)]).explanations[0]
    assert first.cause.key == "slow-sockets"
    assert first.explains


def test_a_cause_that_is_not_enough_does_not_hide_one_that_is() -> None:
    """A log names sockets, which are too quick for what it measured; a power cap is not."""
    found = diagnose([planted("power", 0.3)])
    first, second, *rest = found.explanations
    weak = replace(first, off=1.0)
    shown = conclusion(replace(found, explanations=(weak, replace(second, off=0.0), *rest)))
    assert f"not enough by itself, {second.cause.key} would be" in shown
    none = tuple(replace(e, off=1.0) for e in found.explanations)
    assert conclusion(replace(found, explanations=none)).startswith("No single cause explains it")
