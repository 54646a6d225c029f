"""What search spaces are made of: everything that is derived from typed layers. No torch."""
