"""Searches and networks side by side."""
