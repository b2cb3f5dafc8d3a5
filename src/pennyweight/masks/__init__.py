"""Masks of N:M sparsity: which weights and gradients stay."""
