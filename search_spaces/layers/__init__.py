"""Elastic layers for supernets, one file each.

A layer holds the weights of its largest form and computes with the first channels of them. ``cut`` copies these
channels into a plain torch module with the same output.
"""
