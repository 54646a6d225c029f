"""Defaults that the service, the client and the command line share, without any import."""

DEFAULT_URL = "http://127.0.0.1:8765"
