"""`python -m sharpkit`."""

from __future__ import annotations

from sharpkit.cli.main import main

if __name__ == "__main__":
    main()
