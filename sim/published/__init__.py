"""Published runs as they were made: topologies and workloads, with what was measured."""
