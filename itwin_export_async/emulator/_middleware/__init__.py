"""Rate limits, injected faults, chaos and quirks."""
