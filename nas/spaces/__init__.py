"""Parts of search spaces: everything that is derived from typed layers. No torch."""
