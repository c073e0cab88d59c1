"""Timeline -> Result: exposure, critical path, breakdown, memory, bottleneck."""
