"""The audit: what clients must not do."""
