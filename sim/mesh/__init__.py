"""The mesh: how the ranks of a job are cut into groups, and what each holds of a batch.

`Mesh` has the ordered, named axes, `Groups` are equal groups of ranks that come out of it, `Pairs`
those of two pipeline stages, `Sisters` those of either that are of one stage, and `Batch` counts
sequences and tokens. All are plain values that know no file and no machine.
"""

from sim.mesh.batch import Batch
from sim.mesh.groups import Group, Groups, Pairs, Sisters
from sim.mesh.mesh import AXES, EXPERT_AXES, FLATTENED, Mesh

__all__ = [
    "AXES", "EXPERT_AXES", "FLATTENED", "Batch", "Group", "Groups", "Mesh", "Pairs", "Sisters",
]  # fmt: skip
