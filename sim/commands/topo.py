"""`scaling-sim topo`: look at a machine, or import one from files that exist already."""

from __future__ import annotations

from pathlib import Path

import click

import sim
from sim.api.machines import topo_import
from sim.commands.asked import asks
from sim.commands.complete import GPUS, MACHINES
from sim.commands.options import FORMS, printed, sets
from sim.commands.output import emit, show, tell, written

_asks = asks(topo_import)


@click.group("topo")
def command() -> None:
    """Show or import a topology."""


@command.command("show")
@click.argument("topology", shell_complete=MACHINES)
@sets
@printed(*FORMS, "graph", "yaml")
def show_(topology: str, overrides: tuple[str, ...], form: str, output: Path | None) -> None:
    """Show the tree of TOPOLOGY, its links and its bisection.

    Paths between GPUs and NICs as nvidia-smi topo -m has them, and which ranks are alike.
    --format graph: networkx node-link JSON; yaml: an explicit graph, to edit (break a link).
    """
    from sim.fabric.describe import shown
    from sim.fabric.export import explicit_yaml, node_link_json
    from sim.inputs.loader import given_keys, load_topology
    from sim.report.topology import view

    if form in ("graph", "yaml"):
        fabric = shown(load_topology(topology, overrides))
        written = {
            "yaml": lambda: explicit_yaml(fabric, given_keys(topology, overrides)),
            "graph": lambda: node_link_json(fabric),
        }
        emit(written[form](), output)
    else:
        show(view(sim.topo_show(topology, overrides=overrides)), form, output)


@command.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@_asks("gpu", shell_complete=GPUS,
       help="Catalogue name; by default as the file says it or its NVLinks do.")  # fmt: skip
@_asks("matrix", "--nvidia-smi",
       help="Take FILE as nvidia-smi's alone; by default its content says.")  # fmt: skip
@_asks("nic", help='Rate of a NIC, e.g. "400Gb/s"; NICs are left out without.')
@_asks("name", help="Name of the topology; the file's by default.")
@_asks("all_nics", help="Keep NICs that no GPU is beside.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to a file instead.")
@click.option("--force", is_flag=True, help="Overwrite it if it is there.")
def import_(
    file: Path, gpu: str | None, matrix: bool, nic: str | None, name: str | None,
    all_nics: bool, output: Path | None, force: bool,
) -> None:  # fmt: skip
    """Write topology YAML from nvidia-smi topo -m, or NCCL's XML."""
    found = sim.topo_import(file, gpu=gpu, nic=nic, name=name, all_nics=all_nics, matrix=matrix)
    if output is None:
        emit(found.yaml.rstrip("\n"), None)
    else:
        written(output, found.yaml, force)
    for line in found.assumed:
        tell(f"assumed: {line}")
