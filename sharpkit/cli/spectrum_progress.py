"""How a spectrum gets on, on stderr: products done and the largest eigenvalue so far."""

from __future__ import annotations

from sharpkit.cli.status import StatusProgress


class SpectrumProgress(StatusProgress):
    """Tells a person, or a log file, how many products are done."""

    def product(self, products: int, largest: float) -> None:
        """Show the products done and the largest eigenvalue so far."""
        seen = f"  lambda_1 {largest:.5g}" if largest == largest else ""
        self.tell(f"{products} products{seen}")
