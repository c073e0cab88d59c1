"""One job has one answer: drawn jobs, asked of every verb, give `run`'s figures to the last digit.

Of 160 jobs drawn so, or nearly so, on 30 November 2026 all agreed.
"""

import json
import random

import pytest

import sim
from bench import drawn
from sim.errors import InputError
from sim.inputs.loader import load
from sim.serve.answers import answer

#: what `drawn` leaves alone
METHODS = (
    {"qlora": {"rank": 8, "targets": "all-linear"}}, {"freeze": {"last": 2}},
    {"freeze": {"last": 1, "modules": ["ffn"], "extra": ["norm", "head"]}},
)  # fmt: skip
OTHERS = (
    {"reference": "copy"}, {"reference": "adapters-off"}, {"train_metrics": 1},
    {"data": {"packing": False, "mean_length": 300}, "attention": "flash2"},
    {"data": {"packing": True, "mean_length": 300}, "attention": "flash2"},
    {"data": {"packing": False, "mean_length": 300}, "attention_padding": "unpad"},
    {"optimizer": "adamw-8bit", "optimizer_paged": True}, {"optimizer": "muon"},
    {"optimizer": "galore"}, {"optimizer_in_backward": True, "gradient_accumulation": 1},
    {"precision": "fp8", "compile": True}, {"compile": True, "cuda_graphs": True},
    {"model": "qwen3-30b-a3b"}, {"model": "gemma-2-9b"}, {"trainer": "huggingface"},
)  # fmt: skip
KINDS = tuple(drawn.DRAWN.values())


def _job(draw, kind):
    """A job that passes the checks, in half of them with something that `drawn` leaves alone."""
    while True:
        machine, job = kind(draw)
        if draw.random() < 0.3:
            job["method"] = draw.choice(METHODS)
        if draw.random() < 0.5:
            job |= draw.choice(OTHERS)
        if draw.random() < 0.2:  # a batch in all, and a length in tokens
            del job["gradient_accumulation"], job["steps"]
            job |= {"global_batch": 64, "tokens": 3e8}
        try:
            load(machine, job)
        except InputError:
            continue
        return machine, job


def _plain(document):
    return json.loads(document.to_json())


def _asked(machine, job, run, folder):
    """What each verb says of the job, by the names of the columns of a sweep."""
    alone = {"scaling": False, "fixes": False}
    yield "run by the page", answer("run", {"topology": machine, "workload": job})[1]["document"]
    for engine in ("python", "compiled"):
        yield engine, _plain(sim.simulate(machine, job, engine=engine, **alone))
    own = "offer" in machine  # else it is compared at the cheapest price of its kind
    beside = _plain(sim.compare([machine, machine], job))["variants"][1]["result"]
    yield "compare", beside if own else _without_price(beside)
    size = {"micro_batch": [job["micro_batch"]]}
    [row] = _plain(sim.sweep(machine, job, vary=size, processes=1, store=folder / "s.sqlite"))
    yield "sweep", {key: row[key] for key in run if key in row}
    memory = _plain(sim.memory_of(machine, job, fixes=False))["memory"]
    yield "memory", {key: memory[key] for key in ("verdict", "fits", "fit_probability")} | {
        "memory_bytes": memory["needed_bytes"], "capacity_bytes": memory["capacity_bytes"],
    }  # fmt: skip
    methods = _plain(sim.explain(machine, job))["methods"]
    kind = load(machine, job).workload.method.kind
    [own] = [method for method in methods if method["name"].split()[0] == kind]
    yield "explain", {"step_time_s": own["step_s"], "memory_bytes": own["memory_bytes"]}
    yield "support", {"step_time_s": _plain(sim.support(machine, job))["step_time_s"]}
    first = _plain(sim.improve(machine, job, stop=lambda: True))["before"]
    yield "improve", {key: value for key, value in first.items() if key in run}
    slow = _plain(sim.diagnose(machine, job, measured="step_time_s=1000"))
    yield "diagnose", {
        "step_time_s": slow["figures"][0]["predicted_step_s"], "verdict": slow["verdict"],
        "tokens_per_s_per_gpu": slow["figures"][0]["predicted_tokens_per_s_per_gpu"],
    }  # fmt: skip
    if run["fits"]:
        (folder / "job.json").write_text(json.dumps(job))
        line = {"name": "a", "workload": str(folder / "job.json"), "nodes": machine["nodes"]}
        [served] = _plain(sim.plan(machine, {"jobs": [line]}, replicas=0))["jobs"]
        yield "plan", {"wall_clock_s": served["alone_s"]}


def _without_price(document):
    """A result's figures but for those of its price and place."""
    left = {"topology", "cost", "energy", "inputs_hash", "assumptions", "uncertainty", "provenance"}
    return {key: value for key, value in document.items() if key not in left}


def _row(document):
    """The columns of a sweep, of a result."""
    step, rates, memory = document["step"], document["throughput"], document["memory"]
    job, cost, energy = (document[part] or {} for part in ("job", "cost", "energy"))
    same = {"fits", "verdict", "fit_probability", "capacity_bytes"}
    return {key: memory[key] for key in same} | {
        "gpus": document["topology"]["gpus"], "step_time_s": step["time_s"],
        "compute_s": step["compute_s"], "communication_s": step["communication_s"],
        "exposed_communication_s": step["exposed_communication_s"],
        "memory_bytes": memory["needed_bytes"], "wall_clock_s": job.get("wall_clock_s"),
        "goodput": job.get("goodput"), "cost_usd": cost.get("total_usd"),
        "usd_per_million_tokens": cost.get("usd_per_million_tokens"),
        "energy_j": energy.get("energy_j"), "co2_kg": energy.get("co2_kg"),
        **{key: rates[key] for key in ("tokens_per_s", "tokens_per_s_per_gpu", "mfu", "hfu")},
    }  # fmt: skip


def test_every_verb_about_one_job_warns_as_run_does():
    """Of what is written, of a key that changes nothing, of memory and of how the step runs."""
    sets = ["parallelism={strategy: fsdp1, offload: optimizer}", "network.sharp=true", "nodes=2",
            "activation_checkpointing=none", "micro_batch=2", "deadline=1 h"]  # fmt: skip
    machine, job = "dgx-h100", "llama3-8b-sft"
    said = _plain(sim.simulate(machine, job, overrides=sets, scaling=False))["warnings"]
    assert {w["code"] for w in said} >= {"idle-key", "one-thread"}, [w["code"] for w in said]
    for verb in (sim.explain, sim.memory_of, sim.improve, sim.support):
        assert _plain(verb(machine, job, overrides=sets))["warnings"] == said, verb.__name__
    slow = sim.diagnose(machine, job, measured="step_time_s=100", overrides=sets)
    assert _plain(slow)["warnings"] == said
    beside = sim.compare(machine, [job, job], overrides=sets)
    assert [_plain(v.result)["warnings"] for v in beside.variants] == [said, said]


@pytest.mark.parametrize("seed", range(8))
def test_every_verb_gives_the_figures_of_run(seed, tmp_path):
    machine, job = _job(random.Random(seed), KINDS[seed % len(KINDS)])
    whole = _plain(sim.simulate(machine, job, scaling=False, fixes=False))
    row = _row(whole)
    for verb, said in _asked(machine, job, row, tmp_path):
        expected = whole if "step" in said else row
        assert said == {key: expected[key] for key in said}, f"{verb} of {[machine, job]}"
