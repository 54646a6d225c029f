"""The tasks that come with the project, one file each. Importing them imports no torch."""
