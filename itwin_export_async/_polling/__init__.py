"""When to poll, and one poll task for each run."""
