"""What a server counts, in the text format of Prometheus (version 0.0.4)."""

from collections import Counter
from collections.abc import Mapping

EDGES = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)  # seconds, upper ends
TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Counts:
    """Requests by path and status, how long actions took, and how many were decided together."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self._seconds, self._sum = Counter[float](), 0.0
        self.actions = self.batches = 0

    def answered(self, path: str, status: int) -> None:
        """One request was answered."""
        self.requests[path, status] += 1

    def acted(self, seconds: float) -> None:
        """One action was given, so long after its request had arrived."""
        self.actions += 1
        self._sum += seconds
        self._seconds[next((edge for edge in EDGES if seconds <= edge), float("inf"))] += 1

    def text(self, gauges: Mapping[str, tuple[str, float]]) -> str:
        """All of it. `gauges`: help and value of what is as it is now, by name."""
        lines = ["# HELP engram_requests_total Requests by path and status.", "# TYPE engram_requests_total counter"]
        lines += [
            f'engram_requests_total{{path="{path}",status="{status}"}} {count}'
            for (path, status), count in sorted(self.requests.items())
        ]
        lines += ["# HELP engram_act_seconds From a whole request to its action."]
        lines += ["# TYPE engram_act_seconds histogram"]
        so_far = 0
        for edge in EDGES:
            so_far += self._seconds[edge]
            lines.append(f'engram_act_seconds_bucket{{le="{edge:g}"}} {so_far}')
        lines.append(f'engram_act_seconds_bucket{{le="+Inf"}} {self.actions}')
        lines += [f"engram_act_seconds_sum {self._sum:.9g}", f"engram_act_seconds_count {self.actions}"]
        lines += ["# HELP engram_batches_total Calls of the network.", "# TYPE engram_batches_total counter"]
        lines += [f"engram_batches_total {self.batches}"]
        for name, (help, value) in gauges.items():
            lines += [f"# HELP {name} {help}", f"# TYPE {name} gauge", f"{name} {value:g}"]
        return "\n".join(lines) + "\n"
