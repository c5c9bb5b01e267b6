"""Runs: configuration, training loop, schedules, run directory, checkpoints."""
