"""The store of results where several processes open it at once."""

import threading
from concurrent.futures import ThreadPoolExecutor

from sim.study.store import Store


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
