"""How long one kernel or collective takes: pure formulas, each with its equation and source."""
