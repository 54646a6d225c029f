"""Exporters: ways to hand exported models to other tools, one file each."""
