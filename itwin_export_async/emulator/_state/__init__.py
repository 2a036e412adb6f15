"""The state of the emulated services."""
