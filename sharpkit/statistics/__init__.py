"""Numbers of several seeds: differences between them, whether they are noise, and how that is said."""
