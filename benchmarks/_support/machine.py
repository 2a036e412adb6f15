"""The machine of a measurement, its packages, and the date."""

import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from attrs import frozen

PACKAGES = (
    "itwin-export-async",
    "aiohttp",
    "attrs",
    "azure-core",
    "azure-storage-blob",
    "backoff",
    "cattrs",
    "httpx",
    "orjson",
    "pydantic",
    "redis",
    "requests",
)


@frozen(kw_only=True)
class Machine:
    """A machine with its Python and its packages, on one day."""

    date: str
    cpu: str
    cores: int
    system: str
    python: str
    packages: Mapping[str, str]

    def __str__(self) -> str:
        packages = ", ".join(f"{name} {number}" for name, number in self.packages.items())
        return (
            f"{self.date}, {self.cores} cores of {self.cpu}, {self.system}, {self.python}; "
            f"{packages}"
        )


def this_machine() -> Machine:
    """Describe this machine, today."""
    return Machine(
        date=datetime.now(UTC).date().isoformat(),
        cpu=_cpu(Path("/proc/cpuinfo")),
        cores=os.cpu_count() or 1,
        system=f"{platform.system()} {platform.machine()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        packages=_versions(),
    )


def _cpu(cpuinfo: Path) -> str:
    """The name of the processor, as far as the system reports it."""
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found
