"""What the server answers instead of an action: a status of HTTP and one sentence."""

from typing import Any

LONGEST = 400  # characters of a sentence; what was given may be long


class Refusal(Exception):
    """A request that is not carried out. `headers`: of the answer."""

    def __init__(self, status: int, sentence: str, **headers: str):
        text = "".join(one if one.isprintable() else "?" for one in sentence)
        self.status, self.sentence = status, text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        super().__init__(self.sentence)

    @property
    def body(self) -> dict[str, Any]:
        """As JSON."""
        return {"error": self.sentence}
