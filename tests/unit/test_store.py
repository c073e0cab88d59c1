"""The store of results where several processes open it at once."""

import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from sim.errors import InputError
from sim.page.sections.answers import pieces_of
from sim.report.formats import FORMATS, rendered
from sim.report.sweep import view
from sim.study.grid import grid_of
from sim.study.store import Store, StoredRow, StoredRows, keys_together
from sim.study.sweep import sweep


def test_a_store_made_by_several_at_once_is_one(tmp_path):
    """Some found it locked, or half made, as each switched it to write-ahead mode."""
    for number in range(20):
        path, start = tmp_path / f"{number}.sqlite", threading.Barrier(4)

        def make(path=path, start=start):
            start.wait()
            Store(path).close()

        with ThreadPoolExecutor(4) as pool:
            made = [pool.submit(make) for _ in range(4)]
        assert [one.exception() for one in made] == [None] * 4


def test_rows_that_are_read_together_share_the_names_of_their_measures(tmp_path):
    name = "".join(["step_", "time_s"])  # no constant of this file, which Python shares anyway
    with Store(tmp_path / "s.sqlite") as store:
        store.put(StoredRow(key, "ok", {}, {name: 1.0}) for key in "ab")
        one, two = store.get("ab").values()
    (first,), (second,) = one.measures, two.measures
    assert first is second


def test_which_keys_have_rows_is_asked_page_by_page(tmp_path, monkeypatch):
    monkeypatch.setattr("sim.study.store.KEYS", 2)
    with Store(tmp_path / "s.sqlite") as store:
        store.put(StoredRow(key, "ok" if key in "bdz" else "failed", {}, {}) for key in "zdbac")
        keys = keys_together("abcde")
        assert store.has(keys).tolist() == [True, True, True, True, False]
        assert store.has(keys, failed=True).tolist() == [True, False, True, False, False]
        assert store.has(keys[:0]).tolist() == []


def test_stored_keys_are_not_held_while_others_are_looked_for(tmp_path, monkeypatch):
    """Five million were 2 GiB."""
    monkeypatch.setattr("sim.study.store.KEYS", 5_000)
    keys = keys_together(f"{i:032x}" for i in range(100_000))
    with Store(tmp_path / "s.sqlite") as store:
        store.put(StoredRow(key.decode(), "ok", {}, {}) for key in keys)
        tracemalloc.start()
        try:
            assert store.has(keys).all()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < keys.nbytes / 2


PAIR = ("dgx-h100", {"name": "small", "model": "gpt2", "sequence_length": 512, "tokens": "1e8"})


@pytest.mark.parametrize("more", [{}, {"require": ("mfu > 0.3",), "pareto": ("mfu", "cost_usd")}])
def test_more_rows_than_are_held_are_read_page_by_page(tmp_path, monkeypatch, more):
    """They say what rows in memory say, in every format, and a page is held at a time."""
    grid = replace(grid_of([*PAIR], ["nodes=1,2,1,3", "micro_batch=1,x,2,4"]), **more)
    held = sweep(grid, tmp_path / "s.sqlite")
    monkeypatch.setattr("sim.study.sweep.HELD", 3)
    monkeypatch.setattr("sim.study.store.PAGE", 3)
    read = []
    get = Store.get
    monkeypatch.setattr(
        Store, "get", lambda store, keys: read.append(len(keys)) or get(store, keys)
    )
    paged = sweep(grid, tmp_path / "s.sqlite")
    assert isinstance(held.rows, tuple)
    assert isinstance(paged.rows, StoredRows)
    assert (paged.computed, paged.reused) == (0, 16)
    assert [*paged.rows] == [*held.rows]
    assert [paged.rows[-1], *paged.rows[2:5]] == [held.rows[-1], *held.rows[2:5]]
    assert (paged.meets, paged.front, paged.failed) == (held.meets, held.front, held.failed)
    for form in FORMATS:
        assert rendered(view(paged), form) == rendered(view(held), form), form
    assert max(read) == 3
    Path(tmp_path / "s.sqlite").unlink()
    with pytest.raises(InputError, match=r"s\.sqlite.*unable to open"):
        paged.rows[0]
    assert not (tmp_path / "s.sqlite").exists()


def test_a_page_draws_some_of_very_many_rows_and_says_so(tmp_path, monkeypatch):
    grid = replace(
        grid_of([*PAIR], ["nodes=1..3", "micro_batch=1,2,4"]), pareto=("mfu", "step_time_s")
    )
    outcome = sweep(grid, tmp_path / "s.sqlite")
    monkeypatch.setattr("sim.page.sections.answers._MOST_DOTS", 4)
    (chart,) = pieces_of(outcome)
    drawn = {*range(0, 9, 3), *outcome.front}
    assert [*chart.rows] == [outcome.records()[i] for i in sorted(drawn)]
    assert chart.summary.startswith(f"{len(drawn)} configurations by mfu and step_time_s, ")
    assert "one of every 3 of 9 and those of the front" in chart.summary
