"""How many requests are answered: a bucket of tokens for each address, which fills again at a rate."""

import time
from collections import OrderedDict
from collections.abc import Callable

ADDRESSES = 4_096  # that are remembered; the one that was silent longest is forgotten first


class Rate:
    """At most `rate` events a second from one address, after a first `burst` of them."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic):
        self._rate, self._burst, self._clock = rate, max(1.0, burst), clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens left, and when that was so

    def take(self, address: str) -> float:
        """0 where one more event is allowed; else the seconds after which it would be."""
        now = self._clock()
        left, then = self._buckets.pop(address, (self._burst, now))
        left = min(self._burst, left + (now - then) * self._rate)
        allowed = left >= 1
        self._buckets[address] = (left - 1 if allowed else left, now)
        if len(self._buckets) > ADDRESSES:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self._rate
