"""Bytes to and from disks and streams."""
