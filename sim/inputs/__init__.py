"""What a user writes: topology, workload and model files, bound to frozen specs and checked."""
