"""The whole job over hours and weeks: data, checkpoints, failures, cost and energy."""
