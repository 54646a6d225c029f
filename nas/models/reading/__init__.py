"""Reading files into graphs. ``child.py`` does so in a process with limits, and is what others call."""
