"""A transformer block as it runs: its parameters, kernels, saved tensors and FLOPs."""
