"""Compiled programs and reports of shipped examples against the golden files.

A difference that was meant: `python -m tests.golden.regenerate`, and review the diff.
"""

import json

import pytest

from tests.golden import summaries as s

PROGRAMS = json.loads(s.PROGRAMS.read_text())
REPORTS = json.loads(s.REPORTS.read_text())


@pytest.mark.parametrize("example", PROGRAMS)
def test_program(example):
    topology, workload, *sets = example.split(" ")
    assert s.program_summary(topology, workload, tuple(sets)) == PROGRAMS[example]


@pytest.mark.parametrize("pair", s.SHOWN, ids=lambda p: s.name(*p))
def test_report(pair):
    """Keys may be added, none taken away; the report's labels stay."""
    now, golden = s.report_summary(*pair), REPORTS[s.name(*pair)]
    assert set(golden["keys"]) <= set(now["keys"])
    assert now["labels"] == golden["labels"]
