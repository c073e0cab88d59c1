"""Axes, conditions and fronts of a sweep, and the store of its rows."""

import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.errors import InputError
from sim.study.axes import Axis, Grid, from_options, read_grid
from sim.study.expressions import parse_condition
from sim.study.pareto import pareto_front
from sim.study.store import Store, StoredRow, key_of, keys_together


def test_axes_are_crossed_in_order_and_ranges_expanded():
    axes = from_options(["nodes=1..3", "micro_batch=1,4"], zipped=False)
    points = list(Grid("s", axes=axes).points())
    assert [(p["nodes"], p["micro_batch"]) for p in points] == [
        ("1", "1"), ("1", "4"), ("2", "1"), ("2", "4"), ("3", "1"), ("3", "4"),
    ]  # fmt: skip


def test_zipped_axes_move_together():
    axes = from_options(["nodes=1,2", "micro_batch=8,4"], zipped=True)
    assert axes == (Axis(("nodes", "micro_batch"), (("1", "8"), ("2", "4"))),)


def test_a_comma_within_brackets_belongs_to_the_value():
    (axis,) = from_options(["method=full,{lora: {rank: 8, targets: [q, v]}}"], zipped=False)
    assert axis.points == (("full",), ("{lora: {rank: 8, targets: [q, v]}}",))


def test_a_range_of_more_digits_than_are_converted_is_a_value():
    text = f"1..{'9' * 5000}"
    (axis,) = from_options([f"nodes={text}"], zipped=False)
    assert axis.points == ((text,),)


@pytest.mark.parametrize(
    ("options", "zipped", "message"),
    [
        (["nodes"], False, "write key=value"),
        (["nodes=5..2"], False, "is no range"),
        (["nodes=1,2", "nodes=3"], False, "varied twice"),
        (["nodes=1,2", "micro_batch=1"], True, "unequal length"),
    ],
)
def test_faulty_axes_are_refused(options, zipped, message):
    with pytest.raises(InputError, match=message):
        from_options(options, zipped)


def test_a_study_file_says_it_all(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(
        "topology: [dgx-h100, dgx-a100]\n"
        "workload: llama3-8b-sft\n"
        "set: {sequence_length: 4096}\n"
        "axes: {nodes: [1, 2, 4..6..2]}\n"
        "zip:\n  - {micro_batch: [1, 2], gradient_accumulation: [8, 4]}\n"
        "where: ['nodes * micro_batch <= 8']\n"
        "pareto: [cost_usd, wall_clock_s]\n"
    )
    grid = read_grid(path)
    assert len(grid) == 2 * 4 * 2
    assert grid.keys == ("topology", "nodes", "micro_batch", "gradient_accumulation")
    first = next(grid.points())
    assert first == {
        "sequence_length": "4096", "topology": "dgx-h100", "nodes": "1", "micro_batch": "1",
        "gradient_accumulation": "8",
    }  # fmt: skip


def test_faults_of_a_study_file_have_places(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("topolgy: dgx-h100\naxes:\n  nodes: {a: 1}\nzip: [{a: [1, 2], b: [1]}]\n")
    with pytest.raises(InputError) as caught:
        read_grid(path)
    text = str(caught.value)
    assert f'{path}:1:1  topolgy: unknown key; did you mean "topology"?' in text
    assert f"{path}:3:" in text
    assert "a has 2, b has 1" in text


# --- conditions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("nodes * 8 <= 64 and fits", True),
        ("nodes > 8 or mfu > 0.4", True),
        ("not fits", False),
        ("parallelism.strategy in ['fsdp2', 'zero3']", True),
        ("1 < nodes < 4", False),
        ("cost > 1", False),  # None: there is no figure
        ("nodes / 0 > 1", False),
    ],
)
def test_conditions(text, value):
    values = {"nodes": 8, "fits": True, "mfu": 0.5, "parallelism.strategy": "zero3", "cost": None}
    assert parse_condition(text, "--where").holds(values.__getitem__) is value


@pytest.mark.parametrize("text", ["__import__('os')", "a[0]", "x := 1", "lambda: 1", "1 +", ""])
def test_conditions_cannot_run_code(text):
    with pytest.raises(InputError):
        parse_condition(text, "--where")


@pytest.mark.parametrize("text", ["'x' * 9 == 1", "'%9d' % 1 == 1", "[1] * 9 == 1", "x + 'a' == 1"])
def test_arithmetic_is_of_numbers_alone(text):
    with pytest.raises(InputError, match="arithmetic is of numbers"):
        parse_condition(text, "--where").holds({"x": 1}.__getitem__)


def test_an_unknown_name_is_named_with_the_nearest():
    with pytest.raises(InputError, match='did you mean "mfu"'):
        parse_condition("mfuu > 0.4", "--require", {"mfu", "cost_usd"})


# --- Pareto front --------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=40
    )
)
@settings(max_examples=60)
def test_front_is_what_no_row_beats(rows):
    less = (True, False, True)
    signed = [(a, -b, c) for a, b, c in rows]

    def beaten(row):
        return any(
            all(x <= y for x, y in zip(other, row, strict=True)) and other != row
            for other in signed
        )

    expected = {i for i, row in enumerate(signed) if not beaten(row)}
    assert set(pareto_front(rows, less)) == expected


def test_rows_without_a_figure_are_not_on_the_front():
    assert pareto_front([(1.0, float("nan")), (2.0, 2.0)], (True, True)) == [1]


# --- the store -----------------------------------------------------------------------------------


def test_store_keeps_rows_and_keys_depend_on_inputs(tmp_path):
    row = StoredRow(key_of("base", {"nodes": "2"}), "ok", {"nodes": "2"}, {"mfu": 0.25}, "", 1, 0.5)
    with Store(tmp_path / "s.sqlite") as store:
        store.put([row])
    with Store(tmp_path / "s.sqlite") as store:
        keys = keys_together([row.key])
        assert store.has(keys).tolist() == [True]
        assert store.has(keys, failed=True).tolist() == [False]
        assert store.get([row.key]) == {row.key: row}
    others = {key_of("base", {"nodes": "3"}), key_of("other", {"nodes": "2"})}
    assert row.key not in others
    assert key_of("base", {"a": 1, "b": 2}) == key_of("base", {"b": 2, "a": 1})


def test_a_file_that_is_no_store_is_refused(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("not a database " * 100)
    with pytest.raises(InputError, match="cannot be used as a store"):
        Store(text)
    foreign = tmp_path / "foreign.sqlite"
    db = sqlite3.connect(foreign)
    db.execute("create table t (a)")
    db.commit()
    db.close()
    with pytest.raises(InputError, match="not a store of this version"):
        Store(foreign)
