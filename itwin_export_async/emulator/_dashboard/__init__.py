"""The dashboard of an emulator, and the snapshot that it shows."""
