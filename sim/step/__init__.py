"""One training step: simulated, measured, a few blocks and micro-steps for those that repeat."""
