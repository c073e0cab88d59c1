"""What NCCL would do: its channel search, its tuner, and how long the result takes.

`communicator` is what NCCL sees of a group of ranks. An algorithm is one object, one file of
`algorithms`: where it runs, what NCCL thinks of it, how long it takes, what it puts on a fabric.
`tuner` chooses among them as NCCL would, `timing` is our physics of the choice;
`sim.cost.communicators` sees that on a fabric, `sim.cost.demands` lowers a choice to its resources,
`sim.cost.collectives` says what it costs.
"""
