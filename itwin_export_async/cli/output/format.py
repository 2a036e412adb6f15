"""Figures and sentences as people read them."""

from rich.filesize import decimal

from itwin_export_async import Estimate

NO_IMODELS = (
    "no iModels: the iTwin has none, or this account may not see any; a service application has "
    "to be a member of the iTwin"
)


def duration(seconds: float | None) -> str:
    """A duration: 4.2 s, 45 s, 1 min 35 s, 12 min, 3 h 20 min; empty for None."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    if round(seconds) < 600:
        return f"{round(seconds) // 60} min {round(seconds) % 60:02} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


def time_left(estimate: Estimate) -> str:
    """An estimate: about 12 min left (7 to 25)."""
    if estimate.high <= 0:
        return "almost done"
    unit, length = "s", 1.0
    if estimate.median >= 5400:
        unit, length = "h", 3600.0
    elif estimate.median >= 90:
        unit, length = "min", 60.0
    digits = 1 if unit == "h" else 0
    low, median, high = (
        f"{seconds / length:.{digits}f}"
        for seconds in (estimate.low, estimate.median, estimate.high)
    )
    return f"about {median} {unit} left ({low} to {high})"


def size(count: int | None) -> str:
    """A number of bytes; None is a file that is gone."""
    return "gone" if count is None else decimal(count)


def count(number: int, noun: str) -> str:
    """A number of things, whose plural is regular."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
