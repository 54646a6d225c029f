"""Data sets that were prepared once: shards on disk, in a folder named after what they were made from."""
