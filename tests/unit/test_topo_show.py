"""What `topo show` says, against values worked by hand."""

import json

import networkx as nx
import pytest
from click.testing import CliRunner

from sim import simulate
from sim.commands.topo import command
from sim.fabric import compile_fabric
from sim.fabric.describe import LinkClass, bisection, describe_machine, link_classes, matrix
from sim.fabric.export import explicit_yaml
from sim.inputs.catalogue import names
from sim.inputs.loader import given_keys, load_topology
from sim.report.formats.table import render
from sim.report.topology import view
from tests.unit.machines import dgx_a100, dgx_h100, pcie_box


@pytest.mark.parametrize(
    ("topology", "expected"),
    [
        # four GPUs a half, NVLink 240; PCIe over the socket link: 2 x 26 up, 16 across
        (dgx_a100(), 4 * 240e9 + 16e9),
        (pcie_box(), 16e9),
        # eight NICs of 50 behind PCIe 5 links of 54
        (dgx_h100(2), 8 * 50e9),
        (dgx_h100(4, kind="fat-tree", oversubscription=2.0, nodes_per_leaf=2), 2 * 8 * 50e9 / 2),
    ],
)
def test_bisection(topology, expected):
    assert bisection(compile_fabric(topology)) == pytest.approx(expected)


def test_link_classes():
    found = {c.between: c for c in link_classes(compile_fabric(dgx_a100(2)))}
    assert found["gpu-nvswitch"].count == 16
    assert found["gpu-nvswitch"].bytes_per_s == pytest.approx(240e9)
    assert found["gpu-nvswitch"].raw_bytes_per_s == 300e9
    assert found["gpu-nvswitch"].links == 12
    assert found["nic-switch"] == LinkClass(
        between="nic-switch",
        kind="network",
        bytes_per_s=25e9,
        raw_bytes_per_s=25e9,
        latency_s=pytest.approx(0.3e-6),
        links=0,
        count=16,
    )


def test_matrix():
    found = matrix(compile_fabric(dgx_a100()))
    names, cells = found.names, found.classes
    at = {n.removeprefix("n0/"): i for i, n in enumerate(names)}
    assert cells[at["gpu0"]][at["gpu7"]] == "NV12"
    assert cells[at["gpu0"]][at["nic1"]] == "PIX"
    assert cells[at["gpu0"]][at["nic2"]] == "NODE"
    assert cells[at["gpu0"]][at["nic7"]] == "SYS"
    assert all(cells[i][i] == "X" for i in range(len(names)))
    assert all(cells[i][j] == cells[j][i] for i in at.values() for j in at.values())


def test_text_has_every_part():
    text = render(view(describe_machine(compile_fabric(dgx_h100(2)))))
    for part in ("nodes 0-1, each", "cpu1", "PIX", "NV18", "371 GB/s", "bisection", "rank classes"):
        assert part in text


@pytest.mark.parametrize("machine", [dgx_a100(2), pcie_box(fabric="pairs"), dgx_h100(2, nics=4)])
def test_written_as_a_graph_it_is_the_same_machine(machine, tmp_path):
    fabric = compile_fabric(machine)
    path = tmp_path / "graph.yaml"
    path.write_text(explicit_yaml(fabric))
    again = compile_fabric(load_topology(path))
    assert again.n_ranks == fabric.n_ranks
    for src in range(fabric.n_ranks):
        a, b = fabric.route(0, src), again.route(0, src)
        assert a.path == b.path
        assert sorted(map(fabric.name, a.resource)) == sorted(map(again.name, b.resource))
    everyone = range(fabric.n_ranks)
    assert again.rings(everyone).orders.tolist() == fabric.rings(everyone).orders.tolist()


def test_command():
    done = CliRunner().invoke(command, ["show", "dgx-h100", "--set", "nodes=1"])
    assert done.exit_code == 0, done.output
    assert "NV18" in done.output


@pytest.mark.parametrize("name", names("topologies"))
def test_every_shipped_topology_shows(name):
    node = load_topology(name).node
    for nodes in (1, 2) if node is not None and node.nics is not None else (1,):
        fabric = compile_fabric(load_topology(name, [f"nodes={nodes}"] if node else []))
        facts = describe_machine(fabric)
        assert facts.gpus == fabric.n_ranks
        assert render(view(facts))
        if fabric.n_ranks > 1:
            assert facts.bisection_bytes_per_s > 0
            assert facts.rings.bus_bytes_per_s > 0


def test_formats():
    runner = CliRunner()
    told = json.loads(runner.invoke(command, ["show", "dgx-a100", "--json"]).output)
    assert told["rank_classes"] == [list(range(8))]
    node_link = runner.invoke(command, ["show", "dgx-a100", "--format", "graph"]).output
    graph = nx.node_link_graph(json.loads(node_link), edges="edges")
    assert graph.number_of_nodes() == 8 + 2 + 4 + 8 + 1  # GPUs, CPUs, switches, NICs, NVSwitch


@pytest.mark.parametrize(
    ("name", "sets"),
    [
        ("dgx-h100", ["nodes=2"]),
        ("azure-nc-a100-v4", ["node.storage.read=1 GB/s"]),
        ("mixed-h100-a100", []),
    ],
)
def test_what_is_written_is_the_very_machine(name, sets, tmp_path):
    """Storage, CPU, offer, network: equal, so that a run gives the same bytes; not a key more."""
    path = tmp_path / "graph.yaml"
    topology = load_topology(name, sets)
    path.write_text(explicit_yaml(compile_fabric(topology), given_keys(name, sets)))
    assert load_topology(path) == topology
    assert load_topology(path).graph is None
    assert given_keys(path) == given_keys(name, sets)


def test_an_edited_graph_keeps_what_it_does_not_say(tmp_path):
    sets = ["nodes=2", "node.storage.read=1 GB/s", "node.cpu.cores=7"]
    topology = load_topology("dgx-h100", sets)
    written = explicit_yaml(compile_fabric(topology))
    link = "{source: n0/nic5, target: leaf0.5, kind: network, bandwidth: 50 GB/s"
    path = tmp_path / "graph.yaml"
    path.write_text(written.replace(link, link.replace("50 GB/s", "100 Gb/s")))
    edited = load_topology(path)
    assert edited.graph is not None
    fabric, whole = compile_fabric(edited), compile_fabric(topology)
    assert fabric.bandwidth(fabric.ring_load(range(16))) == pytest.approx(8 * 12.5e9)
    assert fabric.host(1).storage.read == 1e9
    assert fabric.host(0).cpu.cores == 7
    assert edited.offer == topology.offer
    for rate in ("capacity", "nominal", "raw"):
        differ = getattr(fabric, rate) != getattr(whole, rate)
        assert {fabric.name(int(i)).split("/")[1][:4] for i in differ.nonzero()[0]} <= {"nic5"}
    again = tmp_path / "again.yaml"  # an edited machine is written with its edit
    again.write_text(explicit_yaml(fabric))
    assert load_topology(again) == edited


def test_an_edited_graph_has_its_scaling_curve(tmp_path):
    path = tmp_path / "graph.yaml"
    written = explicit_yaml(compile_fabric(load_topology("dgx-h100", ["nodes=2"])))
    link = "{source: n0/nic5, target: leaf0.5, kind: network, bandwidth: 50 GB/s"
    path.write_text(written.replace(link, link.replace("50 GB/s", "10 Gb/s")))
    found = simulate(str(path), "llama3-8b-sft", overrides=["model.layers=2"], fixes=False)
    assert [p.gpus for p in found.scaling.curve] == [8, 16, 32, 64]
    assert found.scaling.curve[1].step_time_s > found.scaling.curve[2].step_time_s


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["nodes=32769", "node.gpus=1", "node.nics.count=1"], "32,769 GPUs; at most 32,768"),
        (["node.gpus=513"], "513 GPUs in a node; at most 512"),
    ],
)
@pytest.mark.parametrize("form", ["table", "graph", "yaml"])
def test_more_than_can_be_shown_is_refused_at_once(sets, said, form):
    args = ["show", "dgx-h100", *(word for each in sets for word in ("--set", each))]
    found = CliRunner().invoke(command, [*args, "--format", form])
    assert found.exit_code != 0
    assert said in str(found.exception)
