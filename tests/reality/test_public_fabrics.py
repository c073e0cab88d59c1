"""Machines of the catalogue against public figures of bus bandwidth, large messages."""

import math

import pytest
from click.testing import CliRunner

from sim import simulate
from sim.commands.collective import command as collective
from sim.cost.collectives import plan_collective
from sim.errors import InputError
from sim.fabric import compile_fabric
from sim.fabric.export import graph_of
from sim.inputs.loader import load_topology

GIB = 2.0**30


def busbw(machine, op="all_gather", ranks=None, size=GIB, sets=(), **more):
    fabric = compile_fabric(load_topology(machine, list(sets)))
    group = range(ranks or fabric.n_ranks)
    return plan_collective(fabric, op, group, size, **more).busbw_bytes_per_s / 1e9


H100_PAIR = {
    "name": "h100-pcie-pair",
    "node": {
        "gpu": "h100-pcie-80gb",
        "gpus": 2,
        "nvlink": {"generation": 4, "links_per_gpu": 12, "fabric": "pairs"},
        "pcie": {"generation": 5, "gpus_per_switch": 0, "nics_per_switch": 0},
    },
}


@pytest.mark.parametrize(
    ("machine", "op", "ranks", "low", "high"),
    [
        # MooreThreads/SimuMax configs/system/a100_pcie.json: 0.69, 0.45, 0.37, 0.42 of 30 GB/s
        ("pcie4-a100-8", "all_gather", 4, 17.5, 23.5),
        ("pcie4-a100-8", "all_gather", 8, 10.8, 15.5),
        ("pcie4-a100-8", "reduce_scatter", 8, 9.5, 13.0),
        ("pcie4-a100-8", "all_reduce", 8, 10.6, 14.0),
        # one log of 32 MiB, 25.9; Vidur's all-reduce across bridged pairs, 23.7
        ("azure-nc-a100-v4", "all_gather", 4, 23.0, 27.0),
        ("azure-nc-a100-v4", "all_reduce", 4, 21.5, 26.5),
        # Vidur a100_pairwise_nvlink, nccl-tests issue 178: 195 to 208
        ("azure-nc-a100-v4", "all_reduce", 2, 185.0, 212.0),
        # PCIe 5 peer to peer across sockets: 39 to 51
        ("pcie5-h100-8", "all_gather", 8, 38.0, 51.0),
        # NVIDIA/nccl issue 1161, nccl-tests issue 194: 115 to 116
        (H100_PAIR, "all_reduce", 2, 110.0, 121.0),
        # ai-dynamo/aiconfigurator, l40s
        ("l40s-8-virtual", "all_gather", 8, 1.1, 2.1),
        ("l40s-8-virtual", "all_gather", 4, 4.5, 5.3),
    ],
)
def test_without_nvswitch(machine, op, ranks, low, high):
    assert low < busbw(machine, op, ranks) < high


def test_in_the_order_of_public_figures():
    names = ("pcie5-h100-8", "pcie4-a100-8", "l40s-8", "l40s-8-virtual")
    rates = [busbw(name) for name in names]
    assert rates[0] > 2.5 * rates[1]
    assert rates[1] == pytest.approx(rates[2], rel=0.1)
    assert rates[2] > 4 * rates[3]


@pytest.mark.parametrize("rate", ["10 GB/s", "1.2 GB/s"])
def test_a_slow_socket_link_is_what_holds(rate):
    held = busbw("pcie4-a100-8", sets=[f"node.cpu.interconnect={rate}"])
    assert held == pytest.approx(float(rate.split()[0]), rel=0.02)


def test_without_peer_to_peer_a_box_is_slower():
    direct = busbw("pcie4-a100-8", ranks=4)
    assert busbw("pcie4-a100-8", ranks=4, sets=["node.pcie.p2p=false"]) < 0.75 * direct


@pytest.mark.parametrize(
    ("machine", "level", "held"),
    [
        ("dgx-h100", "LOC", 26.0),  # NCCL_P2P_DISABLE=1: no NVLink, no NVLS, host memory
        ("dgx-h100", "NVL", 338.4),
        ("pcie4-a100-8", "NVL", 6.5),  # four GPUs share a switch's link to host memory
        ("pcie4-a100-8", "PIX", 11.7),  # as NCCL has it by itself
        ("pcie4-a100-8", "SYS", 21.6),  # across CPUs too
        ("workstation-4x4090", "SYS", 12.5),  # boards that forbid it
    ],
)
def test_nccl_goes_peer_to_peer_as_far_as_it_is_told(machine, level, held):
    found = busbw(machine, sets=[f"node.p2p_level={level}"])
    assert found == pytest.approx(held, rel=0.02)
    written = compile_fabric(load_topology(machine, [f"node.p2p_level={level}"]))
    again = compile_fabric(written.topology.model_copy(update={"graph": graph_of(written)}))
    assert plan_collective(again, "all_gather", range(4), GIB).busbw_bytes_per_s == pytest.approx(
        plan_collective(written, "all_gather", range(4), GIB).busbw_bytes_per_s
    )


def test_two_bridged_cards_are_a_pair_however_that_is_written():
    """115 to 116 GB/s of two H100 PCIe (NVIDIA/nccl issue 1161, nccl-tests issue 194)."""
    rates = []
    for fabric in ("pairs", "mesh"):
        machine = {"name": "m", "node": {"gpu": "H100 PCIe", "gpus": 2,
                                         "nvlink": {"fabric": fabric}}}  # fmt: skip
        found = plan_collective(compile_fabric(load_topology(machine)), "all_reduce", range(2), GIB)
        rates.append(found.busbw_bytes_per_s)
    assert rates[0] == rates[1] == pytest.approx(115.5e9, rel=0.1)


def test_a_bridge_keeps_as_much_of_its_links_between_more_cards():
    """A mesh of PCIe cards is a bridge: of two, of four H200 NVL (NVIDIA's data sheet), no more."""
    kept = []
    for gpus in (2, 4):
        card, board = (
            {"name": "m", "node": {"gpu": gpu, "gpus": gpus, "nvlink": {"fabric": "mesh"}}}
            for gpu in ("H200 NVL", "H200 SXM")
        )
        kept.append(busbw(card, "all_reduce") / busbw(board, "all_reduce"))
    assert kept == pytest.approx([0.58, 0.58], rel=0.02)
    for gpu, gpus, said in (("H100 PCIe", 3, "2"), ("H100 NVL", 4, "2"), ("H200 NVL", 3, "2 or 4")):
        node = {"gpu": gpu, "gpus": gpus, "nvlink": {"fabric": "mesh"}}
        with pytest.raises(InputError, match=f"a bridge joins {said} h[12]00-.*, not {gpus}"):
            compile_fabric(load_topology({"name": "m", "node": node}))


def test_what_a_virtual_server_passes_through_host_memory_is_a_range():
    """1.2 to 12 GB/s where eight L40S are offered; boards without peer-to-peer 2 to 12.5."""
    for machine, expected in (
        ("l40s-8-virtual", (0.32, 3.2)), ("workstation-4x4090", (0.16, 1.0)),
        ("l40s-8", (1.0, 1.0)), ("dgx-h100", (1.0, 1.0)), ("rtx-4090-x1", (1.0, 1.0)),
    ):  # fmt: skip
        assert compile_fabric(load_topology(machine)).staging_range() == expected
    said = CliRunner().invoke(collective, ["l40s-8-virtual", "--op", "all_gather", "--sizes", "1G"])
    assert "0.5 to 4.8 GB/s at best (80 %)" in said.output
    bands = []
    for virtual in ("true", "false"):
        found = simulate(
            "l40s-8-virtual", "llama3-8b-lora", overrides=[f"node.virtual={virtual}"],
            scaling=False, fixes=False,
        )  # fmt: skip
        assert found.uncertainty is not None
        band = found.uncertainty.step_time_s
        bands.append(math.log(band.high / band.low) / 2)
        shown = "what this host's memory passes from GPU to GPU" in found.uncertainty.beyond_data
        assert shown == (virtual == "true")
    share = found.step.exposed_communication_s / found.step.time_s
    assert bands[0] == pytest.approx(math.hypot(bands[1], math.log(10) / 2 * share), rel=1e-6)


@pytest.mark.parametrize(
    ("nics", "rate", "more", "held"),
    [
        (8, "400 Gb/s", [], 19.7),  # 8 ranks' threads send and receive: half a core each way a NIC
        (4, "400 Gb/s", [], 19.7),  # a thread each way
        (1, "400 Gb/s", [], 4.9),  # one core, whatever the line
        (1, "100 Gb/s", ["node.nics.socket_threads=4"], 11.7),  # the line again
        (8, "400 Gb/s", ["node.nics.socket_threads=8", "node.cpu.cores=16"], 39.2),  # all cores
        (1, "10 Gb/s", [], 1.17),  # 1.1 is what 10 GbE gives
    ],
)
def test_tcp_is_held_by_the_cores_that_copy(nics, rate, more, held):
    """42 Gb/s a core, public; 100 Gb/s by the thread NCCL has itself: 5 to 7 GB/s in fms rows."""
    sets = ["nodes=2", "node.nics.kind=tcp", "node.nvlink.sharp=false", f"node.nics.count={nics}"]
    found = busbw("dgx-h100", size=4 * GIB, sets=[*sets, f"node.nics.rate={rate}", *more])
    assert found == pytest.approx(held, rel=0.02)


def test_sockets_cross_host_memory_four_times():
    """Staging for RDMA without GPUDirect: twice."""
    sets = ["nodes=2", "node.nvlink.sharp=false", "node.nics.count=4", "node.nics.gpudirect=false"]
    sets += ["node.cpu.memory_bandwidth=20 GB/s", "node.nics.rate=100 Gb/s"]
    staged = busbw("dgx-h100", sets=sets)
    copied = busbw("dgx-h100", sets=[*sets, "node.nics.kind=tcp", "node.nics.socket_threads=4"])
    assert copied == pytest.approx(staged / 2, rel=0.05)


@pytest.mark.parametrize(
    ("size", "measured"),  # CoreWeave's nccl-tests on GB200 NVL72, NCCL 2.26; not fitted
    [(2**29, 1806.7), (2**30, 3108.8), (2**31, 5589.1), (2**32, 10094.0), (2**33, 20299.0)],
)
def test_nvls_on_a_rack_takes_longer_to_reach_its_pace(size, measured):
    """From 8 GPUs alone it would be 13 to 33 % too fast."""
    rack = {
        "name": "nvl72",
        "node": {
            "gpu": "gb200-186gb", "gpus": 72, "pcie": {"generation": 5}, "cpu": {"vendor": "arm"},
            "nvlink": {"generation": 5, "links_per_gpu": 18, "sharp": True},
        },
    }  # fmt: skip
    fabric = compile_fabric(load_topology(rack, []))
    cost = plan_collective(fabric, "all_reduce", range(72), float(size), "2.26")
    assert cost.algorithm == "nvls"
    assert 0.9 < cost.time_s * 1e6 / measured < 1.0
