"""docs/add-a-strategy.md, run: a strategy in a package of its own, found by its entry point."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sim.errors import InputError
from sim.inputs.loader import load
from sim.inputs.registry import STRATEGIES, Registry
from sim.inputs.strategy import COMMON, Strategy, having, register, strategy_named
from sim.inputs.workload import Parallelism
from tests.clock import HANG_S

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "add-a-strategy.md").read_text()
CODE = re.search(r"```python\n(.*?)```", PAGE, re.S).group(1)
ENTRY = re.search(r"```toml\n(.*?)```", PAGE, re.S).group(1)

RUN = """
import json, sys
import sim
from sim.blocks.parameters import build_tree
from sim.inputs.loader import load
from sim.inputs.shares import mesh_of
from sim.strategies import build_plan

assert "local_sgd" not in sys.modules  # asked for by name only
out = {}
for strategy in ("local-sgd", "ddp"):
    sets = (f"parallelism={strategy}", "gradient_accumulation=6", "nodes=2")
    result = sim.simulate("dgx-h100", "llama3-8b-lora", overrides=sets)
    topology, workload, _ = load("dgx-h100", "llama3-8b-lora", sets)
    tree = build_tree(workload.model, workload.method)
    plan = build_plan(workload, tree, mesh_of(topology, workload))
    out[strategy] = {
        "strategy": result.workload.strategy,
        "communication_s": result.step.communication_s,
        "exposed_s": result.step.exposed_communication_s,
        "fits": result.memory.fits,
        "tokens": result.throughput.tokens_per_s * result.step.time_s,
        "sent": sum(op.bytes_in for op in plan.ops if op.collective == "all_reduce"),
        "updates": sum(op.name == "optimizer" for op in plan.ops),
        "owned": plan.owned_numel,
        "peak": result.memory.peak_allocated_bytes,
    }
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """An installed package, as pip leaves it."""
    site = tmp_path_factory.mktemp("site")
    (site / "local_sgd.py").write_text(CODE)
    info = site / "local_sgd-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: local-sgd\nVersion: 0.1\n")
    group, line = re.fullmatch(r'\[project\.entry-points\."(.*)"\]\n(.*)\n', ENTRY).groups()
    (info / "entry_points.txt").write_text(f"[{group}]\n{line.replace(chr(34), '')}\n")
    return site


def python(site, *words):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(site), str(ROOT)))}
    return subprocess.run(
        [sys.executable, "-W", "error", *words], capture_output=True, text=True,
        env=environment, cwd=ROOT, timeout=HANG_S, check=False,
    )  # fmt: skip


def test_a_package_adds_a_strategy(package):
    done = python(package, "-c", RUN)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    local, ddp = found["local-sgd"], found["ddp"]
    assert "local SGD" in local["strategy"]
    # a round sends the weights once, DDP the gradients in every micro-step
    assert local["sent"] == pytest.approx(4 * local["owned"])
    assert ddp["sent"] == pytest.approx(6 * local["sent"])
    assert local["communication_s"] < ddp["communication_s"] / 2
    # the average hides behind nothing
    assert local["exposed_s"] == pytest.approx(local["communication_s"], rel=0.01)
    assert (local["updates"], ddp["updates"]) == (6, 1)
    assert local["tokens"] == pytest.approx(ddp["tokens"])
    assert local["fits"] == ddp["fits"]
    assert local["peak"] == pytest.approx(ddp["peak"], rel=0.02)


def test_the_command_line_knows_it(package):
    call = "from sim.cli import main; main()"
    words = ("-c", call, "run", "dgx-h100", "llama3-8b-lora", "--set")
    assert "local SGD" in python(package, *words, "parallelism=local-sgd").stdout
    knob = "parallelism={strategy: local-sgd, bucket_cap_mb: 50}"
    refused = python(package, *words, knob)
    assert refused.returncode == 2
    assert "local-sgd has no such knob; it belongs to ddp" in refused.stderr
    unknown = python(package, *words, "parallelism=local-sdg")
    assert unknown.returncode == 2
    assert 'single, megatron, local-sgd; did you mean "local-sgd"?' in unknown.stderr


def test_ours_are_found_by_name_and_answer_for_every_knob():
    assert list(STRATEGIES)[:6] == ["fsdp1", "fsdp2", "zero1", "zero2", "zero3", "ddp"]
    ours = [name for name in STRATEGIES if name != "local-sgd"]
    owned = set().union(*(strategy_named(name).knobs for name in ours))
    assert owned | COMMON == set(Parallelism.model_fields)
    assert not owned & COMMON
    assert having("bucket_cap_mb") == ["ddp"]
    for name in ours:
        strategy = strategy_named(name)
        assert strategy.name == name
        assert set(strategy.instead).isdisjoint(strategy.knobs)
        assert all(
            other in STRATEGIES for other in (*strategy.family, strategy.shards_more or name)
        )


def test_a_name_is_taken_once():
    strategy_named("ddp")

    class Again(Strategy):
        name, title = "ddp", "DDP"

    with pytest.raises(ValueError, match="ddp is registered already"):
        register(Again())


def test_an_unknown_name_is_an_input_error():
    with pytest.raises(InputError, match="is not one of fsdp1, fsdp2"):
        strategy_named("fsdp3")
    with pytest.raises(InputError, match='did you mean "fsdp2"'):
        load("dgx-h100", "llama3-8b-lora", ["parallelism=fsdp22"])


def test_known_names_read_no_metadata(monkeypatch):
    """Entry points are looked for only where a name is not known."""
    looked = []
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: looked.append(group) or ())
    names: Registry = Registry("some.group", {"ours": "sim.strategies.ddp"})
    assert "ours" in names
    assert not looked
    assert "theirs" not in names
    assert looked == ["some.group"]
