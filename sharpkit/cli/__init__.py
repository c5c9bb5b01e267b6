"""The command line: parses, calls a command once, renders. The only room that prints."""
