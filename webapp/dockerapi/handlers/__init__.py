"""What each endpoint does: reads the call, asks a service or a selector, writes the answer. No rule lives here."""
