"""Many exports, crash-safe."""
