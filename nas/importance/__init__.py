"""How important the units of a channel group are: one file for each criterion, listed in ``criteria.py``."""
