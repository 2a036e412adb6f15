"""What the emulated services hold."""
