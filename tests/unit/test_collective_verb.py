"""`collective`: sizes, formats, variants, wrong arguments."""

import csv
import gc
import io
import json
import weakref

import pytest
from click.testing import CliRunner

import sim
from sim.cli import main
from sim.commands.collective import command
from sim.errors import InputError
from sim.fabric import compile_fabric, held
from sim.study.collectives import parse_sizes


def test_sizes():
    assert parse_sizes("1K:8K") == (1024, 2048, 4096, 8192)
    assert parse_sizes("1000:3000") == (1000, 2000)
    assert parse_sizes("65536,1M, 2g,3MiB") == (65536, 2**20, 2**31, 3 * 2**20)
    for bad in ("", "1K:", "8G:1K", "1K:2K:3K", "x", "-4", "0", "1.3", "1e9", "9999999T"):
        with pytest.raises(InputError, match="--sizes"):
            parse_sizes(bad)


def test_csv_of_the_verb():
    found = CliRunner().invoke(
        command, ["dgx-a100", "--op", "all_gather", "--sizes", "1M:4M", "--format", "csv"]
    )
    assert found.exit_code == 0, found.output
    rows = list(csv.DictReader(io.StringIO(found.output)))
    assert list(rows[0])[:5] == [
        "size_bytes", "time_us", "algbw_gb_per_s", "busbw_gb_per_s", "algorithm",
    ]  # fmt: skip
    assert [int(row["size_bytes"]) for row in rows] == [2**20, 2**21, 2**22]
    for row in rows:
        algbw = float(row["size_bytes"]) / float(row["time_us"]) / 1e3
        assert float(row["algbw_gb_per_s"]) == pytest.approx(algbw, rel=1e-3)
        assert float(row["busbw_gb_per_s"]) == pytest.approx(algbw * 7 / 8, rel=1e-3)
        assert row["algorithm"] == "ring"


def test_json_and_table_of_the_verb():
    base = ["dgx-h100", "--set", "nodes=2", "--op", "all_reduce", "--sizes", "1G"]
    found = CliRunner().invoke(command, [*base, "--algorithm", "ring", "--format", "json"])
    document = json.loads(found.output)
    assert document["ranks"] == 16
    assert document["rows"][0]["algorithm"] == "ring"
    text = CliRunner().invoke(command, base).output
    assert "nvls_tree" in text
    assert "16 GPUs on 2 nodes" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["dgx-a100", "--sizes", "8G:1K"], "from more to less"),
        (["dgx-a100", "--sizes", "lots"], "is not a size"),
        (["dgx-a100", "--algorithm", "nvls"], "NVLS needs"),
        (["dgx-a100", "--nccl", "twelve"], "not an NCCL version"),
        (["dgx-a100", "--op", "gossip"], "gossip"),
        (["dgx-a1000"], "dgx-a1000"),
        (["dgx-a100", "--vary", "nodes=1..100000"], "262144 is the most"),
        (["dgx-a100", "--vary", "nodes=1..32768"], "32,768 machines of 8 to 262,144 GPUs need"),
        (["dgx-a100", "--set", "nodes=none"], "nodes"),
    ],
)
def test_bad_arguments_exit_with_two(arguments, said, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["scaling-sim", "collective", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    told = capsys.readouterr()
    assert said in told.err
    assert "Traceback" not in told.err
    assert told.out == ""


def test_of_variants_rows_are_kept_and_no_machines(monkeypatch):
    monkeypatch.setattr("sim.study.collectives._KEPT", 0)
    alive = []

    def compiled(topology):
        fabric = compile_fabric(topology)
        alive.append(weakref.ref(fabric))
        return fabric

    monkeypatch.setattr("sim.study.collectives.compile_fabric", compiled)
    found = sim.collective("dgx-h100", sizes="1M,1G", vary=["nodes=1..6"])
    held.let_go()
    gc.collect()
    assert [fabric() for fabric in alive] == [None] * 6
    assert [sweep.nodes for sweep in found.sweeps] == [1, 2, 3, 4, 5, 6]
    assert len(found.records()) == 12
