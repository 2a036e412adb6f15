"""The operations of the emulated services."""
