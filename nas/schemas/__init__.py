"""The REST contract: the bodies that the API takes and returns, and the client sends and reads."""
