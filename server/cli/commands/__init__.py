"""The commands of ``nas``: one file for each subject, imported when one of its commands runs (``server.cli.lazy``)."""
