"""`collective --vary`: variants of a machine in one table."""

import csv
import io
import json

import pytest
from click.testing import CliRunner

from sim.commands.collective import command

SPINE = "{kind: fat-tree, oversubscription: 4, nodes_per_leaf: 1}"
ARGS = [
    "dgx-h100", "--op", "all_gather", "--sizes", "4G", "--vary", "nodes=2,8",
    "--vary", f"network={{kind: rail-optimized}},{SPINE}", "--vary", "node.nics.count=8,4,2,1",
]  # fmt: skip


def run(*more):
    result = CliRunner().invoke(command, [*ARGS, *more])
    assert result.exit_code == 0, result.output
    return result.output


def rows():
    return list(csv.DictReader(io.StringIO(run("--format", "csv"))))


def test_every_combination_is_a_row_the_first_key_slowest():
    found = [(r["nodes"], r["network"][:14], r["node.nics.count"]) for r in rows()]
    kinds = ("kind: rail-opt", "kind: fat-tree")
    assert found == [(n, k, c) for n in ("2", "8") for k in kinds for c in ("8", "4", "2", "1")]


def test_bus_bandwidth_follows_the_tightest_link():
    """n NICs of 50 GB/s give n x 50; behind a 4:1 spine a quarter. No more than that, and at 4 GiB
    no less than 0.88 of it."""
    for row in rows():
        wire = 50.0 * int(row["node.nics.count"]) / (4 if "fat-tree" in row["network"] else 1)
        assert 0.88 * wire < float(row["busbw_gb_per_s"]) < wire


def test_the_spine_is_named_where_it_is_the_limit():
    for row in rows():
        assert ("spine" in row["limit"]) == ("fat-tree" in row["network"])


def test_forms():
    assert len(json.loads(run("--format", "json"))["variants"]) == 16
    assert run("--format", "md").count("\n| ") == 18
    assert "size: all shards together" in run()


def test_keys_that_move_together():
    args = ["dgx-h100", "--sizes", "1G", "--vary", "nodes=2,4", "--vary", "node.nics.count=8,4"]
    result = CliRunner().invoke(command, [*args, "--zip", "--format", "csv"])
    assert [line.split(",")[:2] for line in result.output.split()[1:]] == [["2", "8"], ["4", "4"]]


@pytest.mark.parametrize("axis", ["nodes", "nodez=1,2", "nodes=1,2,-3"])
def test_a_variant_that_is_no_machine_is_refused(axis):
    result = CliRunner().invoke(command, ["dgx-h100", "--vary", axis])
    assert type(result.exception).__name__ == "InputError"
