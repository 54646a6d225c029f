"""Devices: the list, the page of a device, the comparison of two."""
