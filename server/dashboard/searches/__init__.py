"""The list of searches."""
