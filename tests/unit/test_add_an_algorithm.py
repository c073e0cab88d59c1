"""docs/collectives.md, run: an algorithm from one file and its constants."""

import json
import re
import runpy
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from sim.cost.collectives import plan_collective
from sim.cost.demands import demand_of
from sim.cost.nccl import algorithms
from sim.cost.nccl.communicator import constants
from sim.cost.nccl.tuner import weighed
from sim.errors import InputError
from sim.fabric import compile_fabric
from sim.fabric.shape import NVLINK
from sim.lowering.classes import compile_classes
from sim.lowering.teams import Draws
from tests.unit.machines import dgx_a100, dgx_h100

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "collectives.md").read_text()
CODE = re.search(r"```python\n(.*?)```", PAGE, re.S).group(1)
NUMBERS = tomllib.loads(re.search(r"```toml\n(.*?)```", PAGE, re.S).group(1))["algorithms"]
NAME = "recursive_doubling"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The file among the others, and its table among theirs."""
    (tmp_path / f"{NAME}.py").write_text(CODE)
    monkeypatch.setattr(algorithms, "__path__", [*algorithms.__path__, str(tmp_path)])
    monkeypatch.setitem(constants("nccl_tuner")["algorithms"], NAME, NUMBERS[NAME])
    caches = algorithms.names, algorithms.algorithm_named, weighed
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()
    sys.modules.pop(f"{algorithms.__name__}.{NAME}", None)
    vars(algorithms).pop(NAME, None)


def test_the_verb_offers_and_runs_it():
    verb = runpy.run_path(str(ROOT / "sim" / "commands" / "collective.py"))["command"]
    assert NAME in CliRunner().invoke(verb, ["--help"]).output.replace("\n", "")
    asked = ["dgx-h100", "--op", "all_reduce", "--sizes", "1K:4K", "--format", "json"]
    for options, chosen in (([], "ring"), (["--algorithm", NAME], NAME)):
        found = CliRunner().invoke(verb, [*asked, *options])
        assert found.exit_code == 0, found.output
        assert {row["algorithm"] for row in json.loads(found.output)["rows"]} == {chosen}


def test_forced_it_takes_what_its_rounds_take():
    fabric = compile_fabric(dgx_h100(2))
    cost = plan_collective(fabric, "all_reduce", range(8), 2**20, algorithm=NAME)
    load = np.zeros(fabric.n_resources)
    demand = demand_of(fabric, tuple(range(8)), "all_reduce", cost.algorithm)
    load[demand.resource] = demand.amount
    for rank in range(8):  # three rounds of the whole buffer
        for ports in fabric.nvlink_ports(rank):
            assert load[ports].sum() == pytest.approx(3.0)
        assert load[fabric.hbm(rank)] == 9.0
    assert cost.limit_bytes_per_s == pytest.approx(
        sum(fabric.capacity[port] for port in fabric.nvlink_ports(0)[0]) / 3.0
    )
    assert fabric.kind[cost.limit_resource] == NVLINK
    link = constants("network_timing")["links"]["nvlink4"]
    tiny = plan_collective(fabric, "all_reduce", range(8), 8.0, algorithm=NAME)
    rounds = (link["base_us"][2] + 3 * link["hop_us"][2]) * 1e-6
    assert tiny.latency_s == pytest.approx(rounds, rel=1e-4)
    assert cost.latency_s < 0.9 * rounds  # hops pass beside a MiB
    both = plan_collective(fabric, "all_reduce", range(16), 8.0, algorithm=NAME)
    hop = constants("network_timing")["network"]["rdma"]["hop_us"][2]
    switches = fabric.rings(range(16)).network_latency_s
    assert both.latency_s == pytest.approx(tiny.latency_s + hop * 1e-6 + switches, rel=1e-4)


def test_it_is_chosen_where_its_estimate_is_the_least():
    fabric = compile_fabric(dgx_a100())
    # 4 + 3 x 1 = 7 us; a ring's LL takes 6.6 + 14 x 0.6 = 15 us
    assert plan_collective(fabric, "all_reduce", range(8), 1024, "2.99").algorithm == NAME
    assert plan_collective(fabric, "all_reduce", range(8), 1024, "2.30").algorithm != NAME
    assert plan_collective(fabric, "all_reduce", range(8), 2**30, "2.99").algorithm == "ring"


@pytest.mark.parametrize(("op", "ranks"), [("all_reduce", 6), ("all_gather", 8)])
def test_it_says_what_it_needs(op, ranks):
    with pytest.raises(InputError, match="recursive doubling needs"):
        plan_collective(compile_fabric(dgx_h100()), op, range(ranks), 1024, algorithm=NAME)


def test_in_steps_it_stays_one_op():
    fabric = compile_fabric(dgx_h100())
    group = tuple(range(8))
    own = demand_of(fabric, group, "all_reduce", NAME)
    key = "all_reduce", "world", NAME
    teams = compile_classes(fabric, "steps", {key: Draws.of([group], [own])}).teams
    assert (teams[key].steps, teams[key].n_wires) == (1, 1)
