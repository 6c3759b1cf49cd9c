"""Says where figures come from: versions, cores, the date. Names no path, user or host."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

PACKAGES = (
    "poolinject",
    "fastapi",
    "fastapi-injectable",
    "aiomultiprocess",
    "joblib",
    "loky",
    "mpire",
    "pebble",
    "numpy",
    "cloudpickle",
    "distributed",
    "ray",
)
CPU_FILE = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Machine:
    """Where figures come from.

    Attributes:
        date: UTC, to the minute.
        python: The version of this interpreter.
        system: The operating system and the architecture.
        cpu: The processor's own name for itself.
        cpus: How many this process may use.
        load: Processes that wanted to run in the minute before, others' included: near 0 on a machine at rest.
        versions: By package; ``None`` where it is missing.
    """

    date: str
    python: str
    system: str
    cpu: str
    cpus: int
    load: float
    versions: dict[str, str | None]

    def in_words(self) -> str:
        """Give all of it as a line of text."""
        packages = ", ".join(f"{name} {version or 'missing'}" for name, version in self.versions.items())
        place = f"{self.cpus} CPUs ({self.cpu}), {self.system}, load {self.load} before"
        return f"{self.date}; {place}; Python {self.python}, {packages}."


def describe() -> Machine:
    """Describe this machine and what is installed."""
    return Machine(
        datetime.now(UTC).isoformat(timespec="minutes"),
        platform.python_version(),
        f"{platform.system()} {platform.machine()}",
        _cpu_model(),
        _usable_cpus(),
        round(os.getloadavg()[0], 2),
        {package: _version_of(package) for package in PACKAGES},
    )


def _version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_model() -> str:
    if CPU_FILE.exists():
        for line in CPU_FILE.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
