"""Read-only queries of the store, by subject. ``server.store.queries.Queries`` unites them."""
