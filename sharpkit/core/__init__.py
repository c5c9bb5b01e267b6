"""The engine: tensors only."""
