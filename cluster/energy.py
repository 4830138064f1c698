"""The energy that this machine's processors have used, as Linux counts it (powercap, for example Intel RAPL).

https://docs.kernel.org/power/powercap/powercap.html. Each processor package has a counter in microjoules, which wraps
around after `max_energy_range_uj`. It counts the energy of the cores, the caches and, on most machines, the memory
controller, for all programs together, and of no other part of the machine. Many kernels let only root read it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path("/sys/class/powercap")


@dataclass
class Meter:
    """Adds up the counters of all packages from the first reading on. Thread-safe.

    It must be read at least once per range of a counter; under full load, a counter runs through its range in minutes.
    """

    root: Path = ROOT
    _last: dict[Path, int] = field(default_factory=dict)
    _sum: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def joules(self) -> float | None:
        """Joules since the first reading; None if no package can be read."""
        with self._lock:
            found = {zone: int((zone / "energy_uj").read_text()) for zone in self._packages()}
            for zone, now in found.items():
                before = self._last.get(zone, now)
                self._sum += now - before if now >= before else now - before + _range(zone)
            self._last |= found
            return self._sum / 1e6 if found else None

    def _packages(self) -> list[Path]:
        """The powercap zones of whole packages, each once. Other zones are parts of packages, or duplicates."""
        zones: dict[str, Path] = {}
        for zone in sorted(self.root.glob("*:*")) if self.root.is_dir() else ():
            try:
                name = (zone / "name").read_text().strip()
                (zone / "energy_uj").read_text()
            except OSError:  # a zone without these files, or a zone that only root may read
                continue
            if name.startswith("package"):
                zones.setdefault(name, zone)
        return list(zones.values())


def _range(zone: Path) -> int:
    """Microjoules after which the counter wraps around."""
    return int((zone / "max_energy_range_uj").read_text()) + 1


METER = Meter()
"""The meter of this machine."""
