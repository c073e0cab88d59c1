"""Times the fabric: compiling a machine, its rings, routes, classes and networkx view.

    python -m bench.fabric [--nodes 1,2,16,128] [--repeat 5]

Prints CPU milliseconds, the least of a few runs; every run compiles a machine not seen before.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import sys
import time
from collections.abc import Callable
from datetime import date

import numpy as np

from sim.fabric import Fabric, compile_fabric
from sim.inputs.gpu import Gpu
from sim.inputs.topology import Network, Nics, Node, NvLink, Pcie, Topology

_fresh = itertools.count()


def machine(nodes: int) -> Topology:
    """DGX H100 of a switch latency not used before, so that no cache answers."""
    return Topology(
        name="bench",
        nodes=nodes,
        node=Node(
            gpu=Gpu(name="h100"),
            nvlink=NvLink(generation=4, links_per_gpu=18),
            pcie=Pcie(generation=5),
            nics=Nics(),
        ),
        network=Network(switch_latency=0.6e-6 + next(_fresh) * 1e-15),
    )


def least(repeat: int, job: Callable[[Fabric], object], nodes: int) -> float:
    """Least CPU milliseconds of ``job`` on a freshly compiled fabric."""
    best = float("inf")
    for _ in range(repeat):
        fabric = compile_fabric(machine(nodes))
        began = time.process_time()
        job(fabric)
        best = min(best, time.process_time() - began)
    return best * 1e3


def compiling(repeat: int, nodes: int) -> float:
    """Least CPU milliseconds to compile."""
    best = float("inf")
    for _ in range(repeat):
        topology = machine(nodes)
        began = time.process_time()
        compile_fabric(topology)
        best = min(best, time.process_time() - began)
    return best * 1e3


def routes(fabric: Fabric) -> None:
    """Every rank to its neighbour eight further on."""
    for rank in range(fabric.n_ranks):
        fabric.route(rank, (rank + 8) % fabric.n_ranks)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", default="1,2,16,128")
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    jobs: dict[str, Callable[[Fabric], object]] = {
        "rings": lambda f: f.rings(range(f.n_ranks)),
        "routes": routes,
        "classes": Fabric.rank_classes,
        "networkx": Fabric.graph,
    }
    out = sys.stdout
    out.write(f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}, ")
    out.write(f"{date.today()}; CPU ms, least of {arguments.repeat}\n")
    out.write(f"{'nodes':>6}{'GPUs':>6}{'resources':>11}{'compile':>9}")
    out.write("".join(f"{name:>10}" for name in jobs) + "\n")
    for nodes in map(int, arguments.nodes.split(",")):
        fabric = compile_fabric(machine(nodes))
        row = f"{nodes:>6}{fabric.n_ranks:>6}{fabric.n_resources:>11}"
        row += f"{compiling(arguments.repeat, nodes):>9.2f}"
        for job in jobs.values():
            row += f"{least(arguments.repeat, job, nodes):>10.2f}"
        out.write(row + "\n")


if __name__ == "__main__":
    main()
