"""Requests in, responses out: in memory or behind a server."""
