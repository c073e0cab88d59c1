"""The store of results where several processes open it at once."""

import threading
from concurrent.futures import ThreadPoolExecutor

from sim.study.store import Store, StoredRow


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
