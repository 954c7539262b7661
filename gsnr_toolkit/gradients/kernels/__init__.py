"""Fast sums over per-sample matrix products, in C++, Triton and plain torch.

Functions here take tensors and return tensors or numbers. They do not know models, graphs or parameters' names.
"""
