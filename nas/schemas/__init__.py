"""The REST contract: what the API returns and the client reads. One word per concept, the same on every screen."""
