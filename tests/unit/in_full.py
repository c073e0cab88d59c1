"""Plans of FSDP with every layer recorded by the state machine: what shortened ones are held to."""

from __future__ import annotations

from unittest import mock

from sim.blocks.modules import ModelTree
from sim.inputs.strategy import strategy_of
from sim.inputs.workload import Workload
from sim.mesh import Mesh
from sim.strategies import flat_shard, fully_shard
from sim.strategies.plan import Plan
from sim.strategies.recorder import Recorder


def recorded_in_full(workload: Workload, tree: ModelTree, mesh: Mesh, steps: int = 1) -> Plan:
    """As `build_plan`, no layer a copy of another."""
    with (
        mock.patch.object(fully_shard, "_edge", return_value=0),
        mock.patch.object(flat_shard, "_edge", return_value=0),
    ):
        return strategy_of(workload).build(
            workload, tree, mesh, steps=steps, cold=steps > 1, recorder=Recorder
        )
