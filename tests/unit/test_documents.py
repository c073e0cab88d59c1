"""Documents: one rounding, one writing of JSON, one list of schema ids."""

import copy
import dataclasses
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import sim
from sim.documents import SCHEMAS, Document, Listing, plain


class Pair(NamedTuple):
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Answer(Document):
    schema: ClassVar[str] = SCHEMAS["need"]

    time_s: float
    band: Pair
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Rows(Listing):
    schema: ClassVar[str] = SCHEMAS["offers"]

    rows: tuple[Answer, ...]

    def records(self):
        return [{"t": row.time_s, "s": row.sizes} for row in self.rows]


def test_document_rounds_to_twelve_digits_and_has_no_infinity():
    answer = Answer(1 / 3, Pair(0.0, math.inf), (1, 2))
    assert answer.to_dict() == {
        "schema": "scaling-sim/need/1",
        "time_s": 0.333333333333,
        "band": {"low": 0.0, "high": None},
        "sizes": [1, 2],
    }
    assert json.loads(answer.to_json()) == answer.to_dict()
    assert "<td>band.low</td><td>0</td>" in answer._repr_html_()


def test_listing_is_the_list_of_its_rows():
    rows = Rows((Answer(0.1 + 0.2, Pair(0, 1)), Answer(2.0, Pair(0, 1), (3,))))
    assert json.loads(rows.to_json()) == [{"t": 0.3, "s": []}, {"t": 2.0, "s": [3]}]
    assert rows.to_dict()["rows"][1] == {"t": 2.0, "s": [3]}
    assert list(rows.to_frame()["t"]) == [0.3, 2.0]
    assert rows._repr_html_().count("<tr>") == 3


def test_plain_leaves_counts_and_truth_alone():
    assert plain({1: True, "n": 10**20, "x": None}) == {"1": True, "n": 10**20, "x": None}


def test_schemas_rounding_and_json_of_documents_have_one_home():
    """Elsewhere `json` quotes a text or writes another tool's file, and a report writes no JSON."""
    sim = Path(__file__).parents[2] / "sim"
    found = {path.relative_to(sim).as_posix(): path.read_text() for path in sim.rglob("*.py")}
    ids = re.compile(r"['\"]scaling-sim/|isfinite\(value\) else None")
    assert [name for name, text in found.items() if ids.search(text)] == ["documents.py"]
    writes = {name.split("/")[0] for name, text in found.items() if "json.dumps" in text}
    assert writes.isdisjoint({"report", "commands", "api", "job", "memory", "calibration"})


def test_a_document_is_written_briefly_and_its_figures_in_full():
    for found in (
        sim.size("mistral-7b-lora", topologies="dgx-h100", max_gpus=16),
        sim.simulate("dgx-h100", "mistral-7b-lora"),
        sim.compare(["dgx-a100", "dgx-h100"], "mistral-7b-lora"),
    ):
        told = repr(found)
        assert told.startswith(f"{type(found).__name__}(")
        assert len(told) < 1000
        assert all(f"{field.name}=" in told for field in dataclasses.fields(found))
        assert copy.deepcopy(found) == found  # it is as it was otherwise
    bound = sim.need_context("dgx-h100", "mistral-7b-lora")
    figures = f"quantity='sequence_length', value={bound.value}, report=MemoryReport(...)"
    assert figures in repr(bound)
