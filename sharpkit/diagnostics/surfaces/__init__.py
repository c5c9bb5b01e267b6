"""The loss over lines, planes and grids around the weights."""
