"""The page of the service, for administrators and users."""
