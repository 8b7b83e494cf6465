"""What the machine is, and how much of it a run really had: speeds without that cannot be judged later."""

import os
import platform
import resource
import time
from dataclasses import dataclass
from pathlib import Path


def description() -> dict[str, str | int | float]:
    """Processor, cores, memory (GiB) and system of this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": processor(),
        "cores": os.cpu_count() or 1,
        "memory_gib": round(memory, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def processor() -> str:
    """The processor's own name, as far as the system tells."""
    table = Path("/proc/cpuinfo")
    if table.exists():
        for line in table.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def loop_microseconds() -> float:
    """The best of nine timings of 10,000 additions in plain Python: shows a host that itself changes its speed."""
    found = []
    for _ in range(9):
        before = time.perf_counter()
        total = 0
        for number in range(10_000):
            total += number
        found.append(time.perf_counter() - before)
    return round(min(found) * 1e6, 1)


def busy_seconds() -> float | None:
    """Processor seconds that all processes together have used since the machine started; None if it does not tell."""
    table = Path("/proc/stat")
    if not table.exists():
        return None
    user, nice, system, _, _, interrupts, soft, *_ = map(int, table.read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system + interrupts + soft) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Watch:
    """Started before a child process runs; tells afterwards who used the processor in the meantime."""

    load_before: float
    loop_before: float
    clock: float
    busy: float | None
    children: float

    @staticmethod
    def start() -> "Watch":
        load, loop = os.getloadavg()[0], loop_microseconds()
        return Watch(round(load, 2), loop, time.perf_counter(), busy_seconds(), children_seconds())

    def stop(self) -> dict[str, float | None]:
        """Load average and loop time before, cores that the child used, and cores that everything else used."""
        wall = time.perf_counter() - self.clock
        own = children_seconds() - self.children
        busy = busy_seconds()
        foreign = None if busy is None or self.busy is None else max(0.0, busy - self.busy - own)
        return {
            "load_before": self.load_before,
            "loop_microseconds": self.loop_before,
            "cores_used": round(own / wall, 2),
            "cores_foreign": None if foreign is None else round(foreign / wall, 2),
        }


def children_seconds() -> float:
    """Processor seconds of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
