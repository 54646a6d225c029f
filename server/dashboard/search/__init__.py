"""One search: its page while it runs and after."""
