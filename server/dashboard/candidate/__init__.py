"""One candidate of a search: its page and its drawings."""
