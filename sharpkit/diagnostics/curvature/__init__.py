"""The spectrum of curvature matrices: products with them, Lanczos, density, trace."""
