"""How a server is set up: where it listens, and what it allows."""

from pathlib import Path

from engram.errors import SpecError
from engram.specs import setting, spec

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@spec
class ServeSettings:
    """The flags of `engram serve`. What has no flag is a fixed limit."""

    host: str = setting("127.0.0.1", "the address to listen at")
    port: int = setting(0, "the port to listen at; 0 for any that is free", low=0, high=65_535)
    expose: bool = setting(False, "allow a host that other machines can reach")
    token_file: Path | None = setting(None, "a file that holds the token, or is to hold it")
    sessions: Path | None = setting(None, "a folder to keep sessions in, so that a restart loses none")
    max_sessions: int = setting(1_000, "sessions that may run at a time", low=1)
    expires: float = setting(600.0, "seconds after which a session without requests ends", above=0)
    limit_rate: float = setting(1_000.0, "requests a second from one address", above=0)
    batch: int = setting(1, "requests that are answered by one call of the network", low=1, high=64)
    memories: int = setting(10, "remembered experiences that an answer tells", low=0)
    body_seconds: float = setting(10.0, "seconds that a request may take to arrive", above=0)
    connections: int = setting(256, "connections at a time", low=1)

    def check(self) -> None:
        """SpecError for an address beyond this machine that was not asked for twice."""
        if self.host not in LOOPBACK and not self.host.startswith("127.") and not self.expose:
            raise SpecError(
                f"host = {self.host!r} can be reached from other machines, and what is sent there is not encrypted; "
                f"listen at 127.0.0.1 behind a proxy that encrypts, or add --expose"
            )
