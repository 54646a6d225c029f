"""Pages on data sets with names."""
