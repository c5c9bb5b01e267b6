"""Stochastic gradients at fixed weights: their norms, and what a perturbation changes in them."""
