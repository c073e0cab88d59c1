"""What NCCL would do: its channel search, its tuner, and how long the result takes.

`communicator` is what NCCL sees of a group of ranks, `tuner` its own cost table and choice,
`timing` our physics of the chosen algorithm. All pure: numbers in, numbers out.
`sim.cost.collectives` lowers the choice to the resources of a fabric.
"""
