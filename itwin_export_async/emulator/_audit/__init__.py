"""Violations of the services' rules by a client."""
