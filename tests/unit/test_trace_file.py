"""A trace is read event by event: as `json` reads it, whatever the pieces, in little memory."""

from __future__ import annotations

import gzip
import json
import re
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.errors import InputError
from sim.interop import evidence, trace_file
from sim.interop.trace_file import read_trace

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def read(path, pieces: int) -> tuple[dict, list]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(evidence, "_PIECE", pieces)
        head, events = read_trace(path)
        return head, [*events]


@settings(max_examples=80)
@given(
    events=st.lists(VALUES, max_size=6), after=VALUES, pace=VALUES, pieces=st.integers(1, 40),
    indent=st.sampled_from([None, 1]), ascii_=st.booleans(), bare=st.booleans(),
    packed=st.booleans(),
)  # fmt: skip
def test_it_reads_what_json_reads(
    tmp_path_factory, events, after, pace, pieces, indent, ascii_, bare, packed
):
    document = {"pace": pace, "traceEvents": events, "traceName": after, "microSteps": after}
    text = json.dumps(events if bare else document, indent=indent, ensure_ascii=ascii_)
    path = tmp_path_factory.mktemp("trace") / "t.json"
    data = text.encode(errors="replace")  # a lone half of a pair is no UTF-8
    path.write_bytes(gzip.compress(data) if packed else data)
    told = json.loads(data.decode())
    head, found = read(path, pieces)
    assert found == (told if bare else told["traceEvents"])
    assert head == ({} if bare else {key: told[key] for key in ("pace", "microSteps")})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trace_file, "_PASSED", 0)  # what nobody needs is passed in parts
        assert read(path, pieces) == (head, found)


@pytest.mark.parametrize("pieces", [1, 5, 1000])
@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ('[{"ph": "X"},\n {"ph": }]', (2, 9), "Expecting value"),
        (
            '[{"ph": "X"},\n\n {"ph": "X}]',
            (3, 9),
            "Unterminated string starting at; the file ends too early",
        ),
        ('[{"ph": "X"}\n {"ph": "X"}]', (2, 2), "Expecting ','"),
        ('{"traceEvents": [1, 2],\n "a" 1}', (2, 6), "Expecting ':'"),
        ('{"traceEvents": [1, 2],\n a: 1}', (2, 2), "Expecting property name"),
        ('{"traceEvents": [1, 2', (1, 22), "Expecting ','; the file ends too early"),
        ('{"traceEvents": [1, 2]}\n]', (2, 1), "Extra data"),
        ("[1, tru", (1, 5), "Expecting value"),
        ("[1, 2,\n", (2, 1), "Expecting value; the file ends too early"),
        ("[1]]", (1, 4), "Extra data"),
        ("[1,]", (1, 4), "Expecting value"),
        ("[1\n}  ", (2, 1), "Expecting ','"),
        ('["a\\x", 2]', (1, 4), "Invalid \\escape"),
        ("hello", (1, 1), "Expecting value"),
    ],
)
def test_what_is_wrong_has_a_place(tmp_path, text, place, said, pieces):
    path = tmp_path / "t.json"
    path.write_text(text)
    where = "line {}, column {}: ".format(*place)
    with pytest.raises(InputError, match=re.escape(where + said)) as error:
        read(path, pieces)
    assert ("ends too early" in str(error.value)) == ("ends too early" in said)


@pytest.mark.parametrize("pieces", [1, 5, 1000])
@pytest.mark.parametrize(
    ("beside", "column", "said"),
    [
        ('["a", "b', 14, "Unterminated string; the file ends too early"),
        ('["a\\u00e9\\n\\x"]', 17, "Invalid \\escape"),
        ('"a\tb"', 8, "Invalid control character"),
        ('"a"', 9, "Expecting ','; the file ends too early"),
        ('{"a": [1, 2}', 17, "Expecting ','"),
        ('{"a" 1}', 11, "Expecting ':'"),
    ],
)
def test_what_is_wrong_where_nobody_looks_has_a_place(
    tmp_path, monkeypatch, beside, column, said, pieces
):
    monkeypatch.setattr(trace_file, "_PASSED", 0)
    path = tmp_path / "t.json"
    path.write_text('{"a":' + beside)
    with pytest.raises(InputError) as error:
        read(path, pieces)
    assert str(error.value) == f"{path}  is not JSON: line 1, column {column}: {said}"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "no list"), ("3", "no list"), ('{"traceEvents": {}}', "no list"),
        ('{"traceEvents": [], "traceEvents": []}', "two lists"), (" \n", "is empty"),
        ("[" * 100_000, "nested too deeply"), ("[" + "9" * 5000 + "]", "4300 digits"),
    ],
)  # fmt: skip
def test_what_is_no_trace_is_refused(tmp_path, text, said):
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        read(path, 1 << 20)


@pytest.mark.parametrize("pieces", [10_000, 1 << 22])
def test_an_event_is_as_long_as_is_said(tmp_path, monkeypatch, pieces):
    monkeypatch.setattr(trace_file, "_LONGEST", 200_000)
    path = tmp_path / "t.json"
    longest = "a" * (200_000 - 2)
    path.write_text(f'["{longest}", 1]')
    assert read(path, pieces) == ({}, [longest, 1])
    for longer in ("a", "a" * 2_000_000):
        path.write_text(f'[1,\n "{longest}{longer}", 1]')
        with pytest.raises(InputError) as error:
            read(path, pieces)
        said = "line 2, column 2: a value of more than 0.2 million characters"
        assert str(error.value) == f"{path}  {said}"


def test_what_nests_without_end_where_nobody_looks_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "t.json"
    path.write_text('{"a":' + '{"a":' * 100_000)
    for passed in (0, 1_000_000):
        monkeypatch.setattr(trace_file, "_PASSED", passed)
        with pytest.raises(InputError, match=r"is not JSON: .*nested too deeply"):
            read(path, 4)


@pytest.mark.parametrize("one", ["a\n\u00e9" * 400_000, [[0.5, "a"]] * 400_000])
def test_what_nobody_needs_is_not_held(tmp_path, monkeypatch, one):
    monkeypatch.setattr(trace_file, "_PASSED", 100_000)
    monkeypatch.setattr(trace_file, "_LONGEST", 100_000)
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"traceEvents": [1, 2], "other": {"of": one}, "pace": 3}))
    assert path.stat().st_size > 3_600_000
    tracemalloc.start()
    found = read(path, 1 << 16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == ({"pace": 3}, [1, 2])
    assert peak < 1_800_000


def test_a_large_file_takes_little_memory_and_says_how_far_it_is(tmp_path):
    event = json.dumps({"ph": "X", "cat": "kernel", "name": "gemm", "ts": 1.0, "dur": 2.0})
    path = tmp_path / "t.json"
    path.write_text('{"traceEvents": [' + ",\n".join([event] * 120_000) + "]}")
    size = path.stat().st_size
    told = []
    tracemalloc.start()
    head, events = read_trace(path, lambda *at: told.append(at))
    count = sum(1 for _ in events)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (head, count) == ({}, 120_000)
    assert peak < size < 10_000_000
    assert peak < 6_000_000
    assert told[-1] == (size // 10**6, size // 10**6)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_file_above_the_limit_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(trace_file, "MAX_BYTES", 1000)
    path = tmp_path / "t.json"
    path.write_text("[" + " " * 2000 + "}")
    with pytest.raises(InputError, match="is larger than 0 MB"):
        read(path, 10)
