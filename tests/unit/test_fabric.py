"""Resources and routes against values worked by hand."""

import numpy as np
import pytest

from sim.errors import InputError
from sim.fabric import compile_fabric
from sim.fabric.paths import printed_class
from sim.inputs.topology import Edge, Graph, Topology, Vertex
from tests.unit.machines import A100, H100, P2P, STAGED, dgx_a100, dgx_h100, pcie_box


def named(fabric, load):
    return {
        fabric.name(i): d for i, d in zip(load.resource.tolist(), load.demand.tolist(), strict=True)
    }


def test_effective_and_raw_rates():
    fabric = compile_fabric(dgx_h100())
    port = fabric.index("n0/gpu0>n0/nvswitch")
    assert fabric.capacity[port] == pytest.approx(18 * 20.6e9)  # NCCL's count, and what is reached
    assert fabric.raw[port] == 18 * 25e9  # data sheet
    link = fabric.index("n0/gpu0>n0/pcie0")
    assert fabric.capacity[link] == 54e9  # copies of pinned memory
    assert fabric.nominal[link] == 48e9  # NCCL's count
    assert fabric.capacity[compile_fabric(dgx_a100()).index("n0/pcie0>n0/cpu0")] > 0
    assert compile_fabric(dgx_a100()).capacity[
        compile_fabric(dgx_a100()).index("n0/gpu0>n0/nvswitch")
    ] == pytest.approx(240e9)


def test_nvlink_rate_override_scales_effective_rate():
    base = dgx_h100()
    fast = base.node.nvlink.model_copy(update={"link_rate": 50e9})
    topology = base.model_copy(update={"node": base.node.model_copy(update={"nvlink": fast})})
    a, b = compile_fabric(base), compile_fabric(topology)
    assert b.capacity[0] is not None
    port = a.index("n0/gpu3>n0/nvswitch")
    assert b.capacity[port] == pytest.approx(2 * a.capacity[port])


def test_same_content_compiles_once():
    a, b = dgx_h100(2), dgx_h100(2).model_copy(update={"name": "other"})
    assert compile_fabric(a) is compile_fabric(dgx_h100(2))
    assert compile_fabric(a).capacity is compile_fabric(b).capacity
    assert compile_fabric(b).topology.name == "other"
    assert compile_fabric(b) is compile_fabric(b.model_copy())
    assert compile_fabric(a).topology.name == "dgx-h100"
    assert compile_fabric(a) is not compile_fabric(dgx_h100(3))


@pytest.mark.parametrize(
    ("topology", "pair", "path", "transport", "demand"),
    [
        (
            dgx_a100(),
            (0, 7),
            "NVL",
            "p2p",
            {"n0/gpu0>n0/nvswitch": 1, "n0/nvswitch>n0/gpu7": 1},
        ),
        (pcie_box(), (0, 1), "PIX", "p2p", {"n0/gpu0>n0/pcie0": P2P, "n0/pcie0>n0/gpu1": P2P}),
        (
            pcie_box(),
            (0, 4),
            "SYS",
            "shm",
            {
                "n0/gpu0>n0/pcie0": STAGED,  # and the way back, which reads ask on
                "n0/pcie0>n0/gpu0": STAGED,
                "n0/pcie0>n0/cpu0": 1,
                "n0/cpu0>n0/cpu1": 1,
                "n0/cpu1 memory": 2,  # written and read, on the receiver's side
                "n0/cpu1>n0/pcie1": 1,
                "n0/pcie1>n0/gpu4": STAGED,
                "n0/gpu4>n0/pcie1": STAGED,
            },
        ),
        (
            pcie_box(per_switch=2, vendor="intel", sockets=1),
            (0, 2),
            "NODE",
            "shm",
            {
                "n0/gpu0>n0/pcie0": STAGED,
                "n0/pcie0>n0/gpu0": STAGED,
                "n0/pcie0>n0/cpu0": 1,
                "n0/cpu0 memory": 2,
                "n0/cpu0>n0/pcie1": 1,
                "n0/pcie1>n0/gpu2": STAGED,
                "n0/gpu2>n0/pcie1": STAGED,
            },
        ),
        (
            pcie_box(gpus=2, per_switch=0),  # AMD host with two GPUs: P2P across sockets
            (0, 1),
            "SYS",
            "p2p",
            {"n0/gpu0>n0/cpu0": P2P, "n0/cpu0>n0/cpu1": 1, "n0/cpu1>n0/gpu1": P2P},
        ),
        (
            pcie_box(fabric="pairs"),
            (2, 3),
            "NVL",
            "p2p",
            {"n0/gpu2>n0/gpu3": 1},
        ),
    ],
)
def test_routes_inside_a_node(topology, pair, path, transport, demand):
    fabric = compile_fabric(topology)
    route = fabric.route(*pair)
    assert (route.path, route.transport) == (path, transport)
    assert named(fabric, route) == demand


def test_no_p2p_goes_through_host_memory_even_under_one_switch():
    fabric = compile_fabric(pcie_box(p2p=False))
    route = fabric.route(0, 1)
    assert (route.path, route.transport) == ("PIX", "shm")
    assert named(fabric, route)["n0/cpu0 memory"] == 2


def test_same_rail_goes_by_one_leaf():
    fabric = compile_fabric(dgx_h100(2))
    route = fabric.route(3, 11)
    assert named(fabric, route) == {
        "n0/gpu3>n0/pcie3": 1,
        "n0/pcie3>n0/nic3": 1,
        "n0/nic3>leaf0.3": 1,
        "leaf0.3>n1/nic3": 1,
        "n1/nic3>n1/pcie3": 1,
        "n1/pcie3>n1/gpu3": 1,
    }
    assert route.latency_s == pytest.approx(0.6e-6)  # one switch
    assert not route.pxn


def test_pxn_keeps_the_rail():
    fabric = compile_fabric(dgx_h100(2))
    route = fabric.route(0, 9)
    demand = named(fabric, route)
    assert route.pxn
    assert demand["n0/gpu0>n0/nvswitch"] == 1
    assert demand["n0/nic1>leaf0.1"] == 1
    assert not any("spine" in name for name in demand)


def test_without_nvlink_another_rail_costs_the_spine():
    base = dgx_h100(2)
    node = base.node.model_copy(update={"nvlink": None})
    fabric = compile_fabric(base.model_copy(update={"node": node}))
    route = fabric.route(0, 9)
    demand = named(fabric, route)
    assert demand["leaf0.0>spine"] == demand["spine>leaf0.1"] == 1
    assert route.latency_s == pytest.approx(3 * 0.6e-6)  # leaf, spine, leaf


def test_nics_are_shared_out():
    assert [compile_fabric(dgx_a100()).nics(r) for r in range(8)] == [(r,) for r in range(8)]
    four = compile_fabric(dgx_h100(2, nics=4))
    assert [four.nics(r) for r in range(8)] == [(0,), (0,), (1,), (1,), (2,), (2,), (3,), (3,)]
    base = dgx_h100(2, nics=32)
    pcie = base.node.pcie.model_copy(update={"nics_per_switch": 4})
    p5 = base.model_copy(update={"node": base.node.model_copy(update={"pcie": pcie})})
    fabric = compile_fabric(p5)
    assert fabric.nics(1) == (4, 5, 6, 7)
    assert named(fabric, fabric.route(1, 9))["n0/nic5>leaf0.5"] == 0.25


def test_gpu_away_from_the_nics_uses_a_neighbour():
    fabric = compile_fabric(dgx_h100(2, nics=4))
    route = fabric.route(1, 9)
    demand = named(fabric, route)
    assert route.pxn
    assert demand["n0/gpu0>n0/pcie0"] == demand["n0/nic0>leaf0.0"] == 1
    assert demand["n1/cpu0 memory"] == 2  # the receiver has no PXN


def test_no_gpudirect_stages_in_host_memory():
    base = dgx_h100(2)
    nics = base.node.nics.model_copy(update={"gpudirect": False})
    fabric = compile_fabric(
        base.model_copy(update={"node": base.node.model_copy(update={"nics": nics})})
    )
    demand = named(fabric, fabric.route(0, 8))
    assert demand["n0/cpu0 memory"] == demand["n1/cpu0 memory"] == 2
    assert demand["n0/pcie0>n0/cpu0"] == demand["n0/cpu0>n0/pcie0"] == 1


def test_offload():
    fabric = compile_fabric(pcie_box())
    assert named(fabric, fabric.offload_route(5, "to-device")) == {
        "n0/cpu1>n0/pcie1": 1,
        "n0/pcie1>n0/gpu5": 1,
        "n0/cpu1 memory": 1,
    }


def test_path_classes():
    (shape,) = compile_fabric(pcie_box(fabric="pairs", per_switch=4)).shapes
    classes = [printed_class(shape, 0, other) for other in (0, 1, 2, 4)]
    assert classes == ["X", "NV12", "PIX", "SYS"]


@pytest.mark.parametrize("kind", ["rail-optimized", "fat-tree"])
def test_oversubscription_narrows_the_uplinks(kind):
    fabric = compile_fabric(dgx_h100(8, kind=kind, oversubscription=4.0))
    up = [i for i, n in enumerate(fabric.names) if n.endswith(">spine")]
    ports = 8 if kind == "rail-optimized" else 32
    assert {fabric.capacity[i] for i in up} == {ports * 50e9 / 4}
    assert len(up) == (8 if kind == "rail-optimized" else 2)


def graph_of_two(bandwidth=100e9, cut=False):
    vertices = [
        Vertex(id="a", kind="gpu", gpu=H100),
        Vertex(id="b", kind="gpu", gpu=A100, node=1),
        Vertex(id="na", kind="nic"),
        Vertex(id="nb", kind="nic", node=1),
        Vertex(id="s", kind="switch"),
    ]
    edges = [
        Edge(source="a", target="na", kind="pcie", bandwidth=48e9),
        Edge(source="b", target="nb", kind="pcie", bandwidth=24e9),
        Edge(source="na", target="s", kind="network", bandwidth=bandwidth, latency=1e-6),
    ]
    if not cut:
        edges.append(Edge(source="nb", target="s", kind="network", bandwidth=bandwidth))
    return Topology(name="two", graph=Graph(vertices=tuple(vertices), edges=tuple(edges)))


def test_explicit_graph():
    fabric = compile_fabric(graph_of_two())
    assert (fabric.n_nodes, fabric.n_ranks) == (2, 2)
    assert fabric.gpu(1).name == "a100-sxm-80gb"
    route = fabric.route(0, 1)
    assert named(fabric, route) == {"a>na": 1, "na>s": 1, "s>nb": 1, "nb>b": 1}
    assert fabric.bandwidth(route) == 24e9
    assert route.latency_s == pytest.approx(1e-6)
    assert fabric.rank_classes().tolist() == [0, 1]


def test_graph_in_pieces_is_refused():
    with pytest.raises(InputError, match="2 pieces") as error:
        compile_fabric(graph_of_two(cut=True))
    assert "nb" in str(error.value)


def test_all_faults_of_a_graph_at_once():
    vertices = (Vertex(id="a", kind="gpu", gpu=H100), Vertex(id="a", kind="cpu"))
    edges = (
        Edge(source="a", target="x", kind="pcie", bandwidth=1e9),
        Edge(source="a", target="a", kind="pcie", bandwidth=1e9),
    )
    topology = Topology(name="bad", graph=Graph(vertices=vertices, edges=edges))
    with pytest.raises(InputError) as error:
        compile_fabric(topology)
    assert len(error.value.faults) == 3


def test_nodes_without_nics_are_refused():
    base = dgx_h100(2)
    node = base.node.model_copy(update={"nics": None})
    with pytest.raises(InputError, match="no NICs"):
        compile_fabric(base.model_copy(update={"node": node}))


def test_equal_cost_paths_share():
    # two leaves joined by two spines: half the bytes on each
    vertices, edges = [], []
    for n in range(2):
        vertices += [Vertex(id=f"g{n}", kind="gpu", gpu=H100, node=n)]
        vertices += [Vertex(id=f"leaf{n}", kind="switch"), Vertex(id=f"spine{n}", kind="switch")]
    for n in range(2):
        edges.append(Edge(source=f"g{n}", target=f"leaf{n}", kind="network", bandwidth=50e9))
        edges += [
            Edge(source=f"leaf{n}", target=f"spine{s}", kind="network", bandwidth=20e9)
            for s in range(2)
        ]
    topology = Topology(name="ecmp", graph=Graph(vertices=tuple(vertices), edges=tuple(edges)))
    fabric = compile_fabric(topology)
    route = fabric.route(0, 1)
    assert named(fabric, route)["leaf0>spine1"] == 0.5
    assert fabric.bandwidth(route) == 40e9


def test_graph_agrees_with_the_arrays():
    for topology in (dgx_h100(3), dgx_a100(2), pcie_box(fabric="pairs"), graph_of_two()):
        fabric = compile_fabric(topology)
        graph = fabric.graph()
        seen = []
        for a, b, link in graph.edges(data=True):
            i = link["resource"]
            seen.append(i)
            assert fabric.name(i) == f"{a}>{b}"
            assert link["bandwidth"] == fabric.capacity[i]
            assert link["raw_bandwidth"] == fabric.raw[i]
        kinds = fabric.kind[np.array(seen)]
        assert len(set(seen)) == len(seen)
        links = np.flatnonzero(np.isin(fabric.kind, [0, 1, 2, 3]))
        assert sorted(seen) == links.tolist()
        assert set(kinds.tolist()) <= {0, 1, 2, 3}
        gpus = [v for v, d in graph.nodes(data=True) if d["kind"] == "gpu"]
        assert [graph.nodes[v]["rank"] for v in gpus] == list(range(fabric.n_ranks))


def test_every_route_follows_the_graph():
    # a route's links form a walk from GPU to GPU (host memory is a stop, not a link), but for the
    # way back of a link whose both directions staged bytes hold
    for topology in (dgx_a100(2), pcie_box(), dgx_h100(2, nics=4)):
        fabric = compile_fabric(topology)
        graph = fabric.graph()
        gpu = {d["rank"]: v for v, d in graph.nodes(data=True) if d["kind"] == "gpu"}
        for src in range(fabric.n_ranks):
            for dst in range(fabric.n_ranks):
                if src == dst:
                    continue
                names = named(fabric, fabric.route(src, dst))
                ends = [n.split(">") for n in names if ">" in n]
                ends = [(a, b) for a, b in ends if b != gpu[src] and a != gpu[dst]]
                out = {}
                for a, b in ends:
                    out[a] = out.get(a, 0) + 1
                    out[b] = out.get(b, 0) - 1
                assert {v: x for v, x in out.items() if x} == {gpu[src]: 1, gpu[dst]: -1}
