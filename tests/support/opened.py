"""Pages opened in a browser that has no network."""

from pathlib import Path

READY = "html[data-ready]"
ASK = """place => { const slider = document.getElementById('seek'); slider.value = place;
  slider.dispatchEvent(new Event('input')); }"""


class Opened:
    """A page in a tab that has no network, with all that it asked for, said and broke."""

    def __init__(self, browser, path: Path, **how):
        how.setdefault("viewport", {"width": 1280, "height": 900})
        self.context = browser.new_context(offline=True, **how)
        self.asked, self.said = [], []
        self.context.on("request", lambda request: self.asked.append(request.url))
        self.tab = self.context.new_page()
        self.tab.on("console", lambda message: self.said.append(message.text))
        self.tab.on("pageerror", lambda error: self.said.append(str(error)))
        self.devtools = self.context.new_cdp_session(self.tab)
        self.devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
        self.go(path)

    def go(self, path: Path) -> None:
        self.tab.goto(path.as_uri())
        self.tab.wait_for_selector(READY, state="attached", timeout=60_000)

    def seek(self, place: int) -> None:
        self.tab.evaluate(ASK, place)

    def texts(self, selector: str) -> list[str]:
        return self.tab.evaluate("css => [...document.querySelectorAll(css)].map(each => each.textContent)", selector)

    def until(self, expression: str) -> None:
        """Wait until `expression` is true. (The driver's own way needs `eval`, which the page's policy refuses.)"""
        for _ in range(600):
            if self.tab.evaluate(expression):
                return
            self.tab.wait_for_timeout(50)
        raise AssertionError(f"never true: {expression}")

    def seconds(self) -> float:
        """What the page's thread has worked: unlike the time on the wall, it does not grow with what else runs."""
        found = self.devtools.send("Performance.getMetrics")["metrics"]
        return next(each["value"] for each in found if each["name"] == "TaskDuration")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()


def written(folder: Path, text: str, name: str = "page.html") -> Path:
    path = folder / name
    path.write_text(text, encoding="ascii")
    return path
