"""Figures as people say them."""

from rich.filesize import decimal


def duration(seconds: float) -> str:
    """A length of time, with as much detail as anybody wants."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


def size(count: int | None) -> str:
    """A number of bytes; what is None is gone."""
    return "gone" if count is None else decimal(count)


def count(number: int, what: str) -> str:
    """So many of something, whose plural is regular."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
