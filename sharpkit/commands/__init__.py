"""One module per command: `run(config) -> result`, without printing."""
