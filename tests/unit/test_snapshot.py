"""Allocations of a step as PyTorch's snapshot: whole, consistent, and the bytes of `memory`."""

from __future__ import annotations

import pickle
import pickletools
from pathlib import Path

import pytest
from click.testing import CliRunner

import sim
from sim.cli import group
from sim.step.snapshot import _Pool, pickled
from sim.strategies.terms import POOLS

JOBS = {
    "one rank for all": ("dgx-h100", "mistral-7b-lora", ["gradient_accumulation=2"], []),
    "host offload": ("dgx-h100", "llama3-8b-sft",
                     ["parallelism.offload=all", "gradient_accumulation=2"], []),
    "ZeRO-3": ("pcie4-a100-16", "mistral-7b-lora",
               ["parallelism.strategy=zero3", "gradient_accumulation=2"], []),
    "stages": ("dgx-h100", "llama3-8b-sft",
               ["parallelism.pipeline_parallel=2", "gradient_accumulation=4"], [0, 7]),
}  # fmt: skip


def replayed(events: list[dict]) -> tuple[int, int, dict[int, dict]]:
    """Highest and last bytes that live, and which blocks do, as a viewer replays it."""
    live: dict[int, dict] = {}
    now = most = 0
    for e in events:
        if e["action"] == "alloc":
            assert e["addr"] not in live
            live[e["addr"]] = e
            now += e["size"]
        elif e["action"] == "free_completed":
            assert live.pop(e["addr"])["size"] == e["size"]
            now -= e["size"]
        most = max(most, now)
    return most, now, live


@pytest.mark.parametrize("name", JOBS)
def test_it_replays_to_what_memory_says(name: str) -> None:
    machine, job, sets, ranks = JOBS[name]
    trace = sim.trace(machine, job, overrides=sets, ranks=ranks)
    found = pickle.loads(pickled(trace.memory_snapshot()))
    assert len(found["device_traces"]) == max(1, len(ranks))
    peaks = []
    for device, events in enumerate(found["device_traces"]):
        times = [e["time_us"] for e in events]
        assert times == sorted(times)
        most, last, live = replayed(events)
        peaks.append(most)
        mine = [s for s in found["segments"] if s["device"] == device]
        assert sum(s["requested_size"] for s in mine) == last
        kept = [b for s in mine for b in s["blocks"] if b["state"] == "active_allocated"]
        assert {b["address"]: b["requested_size"] for b in kept} == {
            address: e["size"] for address, e in live.items()
        }
        for segment in mine:
            at = segment["address"]
            assert segment["segment_pool_id"] == (0, 0)  # the allocator's own
            for block in segment["blocks"]:  # one after the other, without gaps
                assert block["address"] == at
                assert block["state"] != "inactive" or block["requested_size"] == 0
                at += block["size"]
            assert at == segment["address"] + segment["total_size"]
        for e in events:
            if e["action"] != "segment_alloc":
                home = next(s for s in mine if 0 <= e["addr"] - s["address"] < s["total_size"])
                assert home["stream"] == e["stream"]
                assert e["frames"][0].keys() == {"name", "filename", "line"}
    said = sim.memory_of(machine, job, overrides=sets, fixes=False).report
    # a byte a block is rounded; the fullest rank is among those shown
    assert max(peaks) == pytest.approx(max(said.by_moment.values()), rel=1e-6)


def test_a_block_says_what_it_is_for() -> None:
    found = sim.trace("dgx-h100", "llama3-8b-sft", gradient_accumulation=2).memory_snapshot()
    frames = [e["frames"] for e in found["device_traces"][0] if e["action"] == "alloc"]
    assert frames[0][0] == {"name": "sharded parameters", "filename": "init", "line": 0}
    assert any(f[-1]["filename"] == "backward layers.31" for f in frames)
    kept = {b["frames"][0]["name"] for s in found["segments"] for b in s["blocks"] if b["frames"]}
    assert kept == {"sharded parameters", "optimizer states", "inputs"}


def test_the_viewer_knows_its_opcodes() -> None:
    """Of a pickle it reads no classes and nothing later than protocol 4."""
    data = pickled(sim.trace("a100-x1", "llama3-8b-lora").memory_snapshot())
    names = {op.name for op, _, _ in pickletools.genops(data)}
    assert not names & {"GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "NEWOBJ", "BYTEARRAY8"}
    assert data[:2] == b"\x80\x04"


def test_the_command_writes_it_beside_or_instead_of_the_trace(tmp_path: Path) -> None:
    file, trace = tmp_path / "m.pickle", tmp_path / "t.json"
    words = ["trace", "a100-x1", "llama3-8b-lora", "--memory-snapshot", str(file)]
    done = CliRunner().invoke(group, words)
    assert done.exit_code == 0, done.output
    assert "traceEvents" not in done.stdout
    assert pickle.loads(file.read_bytes())["segments"]
    assert CliRunner().invoke(group, [*words, "-o", str(trace)]).exit_code == 0
    assert trace.stat().st_size > 1000
    nowhere = str(tmp_path / "no" / "such" / "m.pickle")
    done = CliRunner().invoke(group, [*words[:-1], nowhere])
    assert nowhere in str(done.exception)


def test_a_pool_fills_its_first_gap_that_is_large_enough() -> None:
    """Blocks are 512 B and whole times that: 1000 B take 1024, as far as the next one's begin."""
    pool = _Pool(0)
    first, second, third = (pool.take(size, []) for size in (1000, 512, 100))
    assert (first.address, second.address, third.address, pool.top) == (0, 1024, 1536, 2048)
    pool.give(first)
    again = pool.take(600, [])  # all of the gap
    assert (again.address, pool.gaps) == (0, [])
    pool.give(again)
    assert pool.take(100, []).address == 0  # half of it
    assert pool.take(1024, []).address == 2048  # the other half is too small
    assert pool.take(512, []).address == 512
    assert (pool.top, pool.gaps) == (3072, [])


def test_pools_lie_16_tib_apart() -> None:
    trace = sim.trace("dgx-h100", "mistral-7b-lora", overrides=["gradient_accumulation=1"])
    segments = pickle.loads(pickled(trace.memory_snapshot()))["segments"]
    places = {s["address"] / 2**44 for s in segments}
    assert places <= set(range(1, 1 + len(POOLS)))
    assert 1 in places
