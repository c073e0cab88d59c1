"""Machines that only a graph can say, relabelling, and what compiling costs."""

import itertools
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.errors import InputError
from sim.fabric import KINDS, compile_fabric
from sim.fabric.links import constants
from sim.fabric.paths import printed_class
from sim.inputs.loader import load_topology
from sim.inputs.topology import Edge, Graph, Topology, Vertex
from tests.clock import least
from tests.unit.machines import H100, dgx_a100, dgx_h100, pcie_box


def explicit(topology, gpu=H100):
    """The same machine written out."""
    fabric = compile_fabric(topology)
    vertices, edges = [], []
    for n, (shape, names) in enumerate(zip(fabric.shapes, fabric.vertex_names, strict=True)):
        for v, kind in enumerate(shape.kinds):
            vertices.append(Vertex(id=names[v], kind=kind, node=n))
        for e in shape.links[::2]:
            kind, ends = KINDS[e.kind], (names[e.tail], names[e.head])
            edges.append(Edge(source=ends[0], target=ends[1], kind=kind, bandwidth=e.capacity))
    ends = fabric.network_names
    vertices += [Vertex(id=s, kind="switch") for s in fabric.plane.names]
    for a, b, rate, _, delay in itertools.islice(fabric.plane.links(), 0, None, 2):
        edges.append(
            Edge(source=ends[a], target=ends[b], kind="network", bandwidth=rate, latency=delay)
        )
    graph = Graph(vertices=tuple(vertices), edges=tuple(edges))
    return Topology(name=topology.name, gpu=gpu, graph=graph)


def changed(topology, source, target, bandwidth):
    """A machine with one link at another rate; without it if ``bandwidth`` is None."""
    edges = []
    for e in topology.graph.edges:
        if (e.source, e.target) != (source, target):
            edges.append(e)
        elif bandwidth is not None:
            edges.append(e.model_copy(update={"bandwidth": bandwidth}))
    assert edges != list(topology.graph.edges)
    graph = topology.graph.model_copy(update={"edges": tuple(edges)})
    return topology.model_copy(update={"graph": graph})


def bus(fabric, ranks=None):
    ranks = range(fabric.n_ranks) if ranks is None else ranks
    return fabric.bandwidth(fabric.ring_load(ranks))


def test_degraded_nvlink_holds_the_whole_ring():
    # nine of GPU 3's eighteen links are down: one rate for all
    slow = changed(explicit(dgx_h100()), "n0/gpu3", "n0/nvswitch", 9 * 20.6e9)
    fabric = compile_fabric(slow)
    assert bus(fabric) == pytest.approx(9 * 20.6e9)
    assert printed_class(fabric.shapes[0], 0, 3) == "NV9"
    assert printed_class(fabric.shapes[0], 0, 1) == "NV18"
    # not only GPU 3 is apart: its PCIe neighbours on the socket see it too
    classes = fabric.rank_classes()
    assert (classes == classes[3]).sum() == 1
    assert classes[0] == classes[1] == classes[2]
    assert classes[0] != classes[4]


def test_degraded_nic_holds_its_rail():
    fabric = compile_fabric(changed(explicit(dgx_h100(2)), "n0/nic5", "leaf0.5", 12.5e9))
    assert bus(fabric) == pytest.approx(8 * 12.5e9)
    assert fabric.name(fabric.bottleneck(fabric.ring_load(range(16)))).count("nic5") == 1
    assert bus(fabric, [0, 8]) == 50e9  # the other rails don't notice


def test_missing_nic_leaves_fewer_rails():
    whole = explicit(dgx_h100(2))
    cut = changed(whole, "n0/nic5", "leaf0.5", None)
    cut = changed(cut, "leaf0.5", "spine", None)  # else rail 5 hangs on by the spine
    cut = changed(cut, "n1/nic5", "leaf0.5", None)
    vertices = tuple(v for v in cut.graph.vertices if v.id != "leaf0.5")
    graph = cut.graph.model_copy(update={"vertices": vertices})
    fabric = compile_fabric(cut.model_copy(update={"graph": graph}))
    rings = fabric.rings(range(16))
    assert rings.orders.shape == (7, 16)
    assert fabric.bandwidth(rings.load) == pytest.approx(7 * 50e9)
    # GPU 5's NIC is gone: it leaves through a neighbour's
    assert fabric.route(5, 13).pxn


def test_unequal_nodes():
    big, small = explicit(dgx_h100(2)), dgx_h100(2, nics=4)
    other = explicit(small)
    vertices = [v for v in big.graph.vertices if v.id.startswith(("n0/", "leaf", "spine"))]
    vertices += [v for v in other.graph.vertices if v.id.startswith("n1/")]
    edges = [e for e in big.graph.edges if not e.source.startswith("n1/")]
    edges += [e for e in other.graph.edges if e.source.startswith("n1/")]
    graph = Graph(vertices=tuple(vertices), edges=tuple(edges))
    fabric = compile_fabric(Topology(name="mixed", gpu=H100, graph=graph))
    assert len({id(s) for s in fabric.shapes}) == 2
    rings = fabric.rings(range(16))
    assert rings.orders.shape == (4, 16)
    assert fabric.bandwidth(rings.load) == pytest.approx(4 * 50e9)
    classes = fabric.rank_classes()
    assert not set(classes[:8]) & set(classes[8:])


def test_nvlink_across_hosts_is_one_domain():
    # two trays of two GPUs on one NVSwitch, as in a rack of GB200
    vertices = [Vertex(id="s", kind="nvswitch")]
    edges = []
    for i in range(4):
        vertices.append(Vertex(id=f"g{i}", kind="gpu", node=i // 2))
        edges.append(Edge(source=f"g{i}", target="s", kind="nvlink", bandwidth=700e9))
    graph = Graph(vertices=tuple(vertices), edges=tuple(edges))
    fabric = compile_fabric(Topology(name="trays", gpu=H100, graph=graph))
    assert fabric.n_nodes == 1
    assert fabric.nvswitch(range(4))
    assert bus(fabric) == 700e9


def test_rings_of_a_hybrid_cube_mesh():
    # a DGX-1: six links a GPU, all of them busy in six rings of one link each
    mesh = constants()["hybrid_cube_mesh"]["links"]
    vertices = tuple(Vertex(id=f"g{i}", kind="gpu") for i in range(8))
    edges = tuple(
        Edge(source=f"g{a}", target=f"g{b}", kind="nvlink", bandwidth=count * 20.6e9)
        for a, b, count in mesh
    )
    graph = Graph(vertices=vertices, edges=edges)
    fabric = compile_fabric(Topology(name="dgx-1", gpu=H100, graph=graph))
    assert fabric.rings(range(8)).orders.shape == (6, 8)
    assert bus(fabric) == pytest.approx(6 * 20.6e9)
    assert fabric.rank_classes().tolist() == [0] * 8
    assert fabric.route(0, 7).path == "NVB"


def test_one_way_link():
    vertices = tuple(Vertex(id=v, kind="gpu") for v in "abc")
    edges = tuple(
        Edge(source=a, target=b, kind="nvlink", bandwidth=25e9, directed=True)
        for a, b in ("ab", "bc", "ca")
    )
    fabric = compile_fabric(
        Topology(name="ring", gpu=H100, graph=Graph(vertices=vertices, edges=edges))
    )
    assert fabric.n_resources == 3 + 3 + 2  # links, HBM, storage
    assert fabric.route(0, 1).path == "NVL"
    assert fabric.route(1, 0).path == "NVB"  # the long way round
    assert bus(fabric) == 25e9


def test_copies_to_a_host_that_is_not_there_are_refused():
    vertices = (Vertex(id="a", kind="gpu"), Vertex(id="b", kind="gpu"))
    edges = (Edge(source="a", target="b", kind="nvlink", bandwidth=25e9),)
    graph = Graph(vertices=vertices, edges=edges)
    fabric = compile_fabric(Topology(name="bare", gpu=H100, graph=graph))
    with pytest.raises(InputError, match="no CPU"):
        fabric.offload_route(0, "to-host")


@settings(max_examples=25)
@given(
    machine=st.sampled_from(
        [dgx_h100(2), dgx_a100(2), dgx_h100(2, nics=4), pcie_box(), pcie_box(per_switch=2)]
    ),
    seed=st.integers(0, 10_000),
)
def test_order_of_writing_changes_nothing(machine, seed):
    plain = explicit(machine)
    vertices, edges = list(plain.graph.vertices), list(plain.graph.edges)
    random.Random(seed).shuffle(vertices)
    random.Random(seed + 1).shuffle(edges)
    edges = [
        e.model_copy(update={"source": e.target, "target": e.source}) if i % 2 else e
        for i, e in enumerate(edges)
    ]
    graph = Graph(vertices=tuple(vertices), edges=tuple(edges))
    shuffled = plain.model_copy(update={"graph": graph})
    a, b = compile_fabric(plain), compile_fabric(shuffled)
    assert bus(b) == pytest.approx(bus(a), rel=1e-12)
    sizes = [sorted(np.bincount(f.rank_classes()).tolist()) for f in (a, b)]
    assert sizes[0] == sizes[1]
    assert sorted(a.capacity.tolist()) == sorted(b.capacity.tolist())


@settings(max_examples=25)
@given(
    nodes=st.integers(1, 5),
    nics=st.sampled_from([1, 2, 4, 8, 16]),
    kind=st.sampled_from(["rail-optimized", "fat-tree", "single-switch"]),
    per_leaf=st.sampled_from([None, 1, 2]),
    data=st.data(),
)
def test_rings_of_any_group(nodes, nics, kind, per_leaf, data):
    fabric = compile_fabric(dgx_h100(nodes, nics=nics, kind=kind, nodes_per_leaf=per_leaf))
    ranks = data.draw(st.sets(st.integers(0, fabric.n_ranks - 1), min_size=1))
    rings = fabric.rings(sorted(ranks))
    for order in rings.orders.tolist():
        assert sorted(order) == sorted(ranks)
    demand = np.zeros(fabric.n_resources)
    demand[rings.load.resource] = rings.load.demand
    assert (rings.load.demand > 0).all()
    assert len(set(rings.load.resource.tolist())) == len(rings.load.resource)
    # what leaves a node's NICs is what enters them: one byte a byte, if the group spans nodes
    used = sorted({int(fabric.rank_node[r]) for r in ranks})
    for node in used if len(used) > 1 else ():
        for way in (0, 1):
            ports = np.concatenate([fabric.nic_ports(node, j)[way] for j in range(nics)])
            assert demand[ports].sum() == pytest.approx(1.0)


def test_compiling_is_quick():
    def cold(nodes):
        # an unused field of the network keeps the cache from answering
        topology = dgx_h100(nodes, switch_latency=random.random() * 1e-6)
        return lambda: compile_fabric.__globals__["_compile"].__wrapped__(
            compile_fabric.__globals__["_FabricKey"](topology)
        )

    assert least(cold(2)) < 3e-3
    assert least(cold(128)) < 60e-3


def test_no_networkx_on_the_road():
    code = (
        "import sys; from tests.unit.machines import dgx_h100;"
        "from sim.fabric import compile_fabric;"
        "f = compile_fabric(dgx_h100(2)); f.rings(range(16)); f.rank_classes();"
        "sys.exit('networkx' in sys.modules or 'scipy' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=root).returncode == 0


@pytest.mark.parametrize(("name", "links"), [("h200-nvl-141gb", 6), ("v100-sxm-16gb", 2)])
def test_a_mesh_written_out_has_the_links_of_its_bridge(name, links):
    """What a bridge keeps of a link holds for one of four cards; boards of SXM keep all."""
    node = {"gpu": name, "gpus": 4, "nvlink": {"fabric": "mesh"}}
    short = load_topology({"name": "four", "node": node})
    for machine in (short, explicit(short, short.node.gpu)):
        [shape] = compile_fabric(machine).shapes
        found = [e.links for e in shape.links if KINDS[e.kind] == "nvlink"]
        assert found == [links] * 12
