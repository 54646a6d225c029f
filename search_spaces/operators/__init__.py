"""Operators of today's networks, one a file: the layer, and the block that it stands in. No torch.

A layer is written down once (``nas.core.composed_layer``); ``blocks.py`` lists the blocks by name.
"""
