"""One training step: simulated, measured, extrapolated in depth and micro-steps."""
