"""Pages of users' models."""
