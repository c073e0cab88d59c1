"""Several inverse questions to one job's memory, each on its own."""

import json

import pytest
from click.testing import CliRunner

import sim
from sim.cli import group
from sim.errors import InfeasibleError

ALL = ["--max", "micro_batch", "--max", "sequence_length", "--min", "nodes"]


def test_each_is_what_it_is_alone():
    asked = ("micro_batch", "sequence_length", "nodes")
    together = sim.memory_of("dgx-h100", "llama3-8b-sft", bounds=asked, fixes=False)
    alone = [
        sim.memory_of("dgx-h100", "llama3-8b-sft", bound=quantity, fixes=False).bound
        for quantity in asked
    ]
    assert list(together.bounds) == alone
    assert together.bound == alone[0]
    assert not together.unbounded


def test_one_without_an_answer_does_not_hide_the_others():
    done = CliRunner().invoke(group, ["memory", "dgx-h100", "llama3-70b-full", *ALL, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [(b["quantity"], b["value"]) for b in found["bounds"]] == [("nodes", 3)]
    assert found["bound"] == found["bounds"][0]
    assert len(found["unbounded"]) == 2
    assert "sequence_length 256 already needs" in found["unbounded"][1]


def test_nothing_at_all_is_no_answer():
    with pytest.raises(InfeasibleError, match="nothing fits"):
        sim.memory_of("dgx-h100", "llama3-70b-full", bounds=("micro_batch", "sequence_length"))
    done = CliRunner().invoke(group, ["memory", "dgx-h100", "llama3-8b-sft", "--json"])
    assert "bound" not in json.loads(done.stdout)
