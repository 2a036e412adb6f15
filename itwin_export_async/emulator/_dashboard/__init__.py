"""The page and the JSON snapshot of a served emulator."""
