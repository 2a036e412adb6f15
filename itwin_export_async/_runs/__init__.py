"""Find or create a connection, start a run, hold it, resume it."""
