"""The Python client: every verb of the service, over REST only.

from nas.client import Client
with Client() as nas:
    search = nas.submit(SearchSpec(name="digits"))
"""
