"""The published numbers one by one."""

from sharpkit.engine.published_tables import TABLES, find

ALL = [(table, entry) for table in TABLES.values() for entry in table.entries]


def one(name, opt, metric="acc", **where):
    """The only entry of a table that is about something."""
    table = find(name)
    (entry,) = (
        entry
        for entry in table.entries
        if (entry.opt, entry.metric) == (opt, metric) and where.items() <= table.given(entry).items()
    )
    return entry
