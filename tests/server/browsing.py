"""The dashboard in a real browser whose microphone is a file, and actions on it for tests."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from makers import babble

from streamser.audio import SAMPLE_RATE, Samples

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
DEADLINE_S = 60.0
AXE = Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js"

needs_browser = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and CHROMEDRIVER and find_spec("selenium")),
        reason="chromium, chromedriver and selenium are not installed",
    ),
]

# No background requests, no questions to the user, and a fake microphone.
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    "--window-size=1280,1000",
)


def coloured(*, bright: bool) -> Samples:
    """A voice through a high-pass (`bright`) or a low-pass filter, which get different labels in the tests."""
    voice = babble(1.8, 1, level=0.4)
    hz = np.fft.rfftfreq(len(voice), 1 / SAMPLE_RATE)
    gain = hz / (hz + 1500) if bright else 1 / (1 + (hz / 400) ** 2)
    filtered = np.fft.irfft(np.fft.rfft(voice) * gain, len(voice))
    return (0.3 * filtered / np.abs(filtered).max()).astype(np.float32)


class Page:
    """The dashboard in the browser, with actions of a user."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver = driver
        self.url = url.partition("#")[0]
        driver.get(url)
        self.until(lambda: ":" in self.text("#model"))

    def do(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def text(self, selector: str) -> str:
        return str(self.find(selector).text)

    def press(self, key: str) -> None:
        """Press a key while no element has the focus."""
        self.find("body").send_keys(key)

    def rows(self) -> list[tuple[str, str, float]]:
        """The shown emotion, the likeliest label and the confidence of every utterance, in order of time."""
        script = """return [...document.querySelectorAll("#rows tr")].reverse().map((row) => [
            row.querySelector(".emotion").textContent, row.dataset.label, row.querySelector(".meter").textContent])"""
        return [(shown, label, _share(meter)) for shown, label, meter in self.do(script)]

    def until(self, holds: Callable[[], object]) -> None:
        """Wait until the condition is true; it is checked ten times per second."""
        deadline = time.monotonic() + DEADLINE_S
        while not holds():
            assert time.monotonic() < deadline, f"{self.text('#link')} {self.text('#trouble')} {self.rows()}"
            self.do("return new Promise((resolve) => setTimeout(resolve, 100))")

    def export(self, kind: str) -> str:
        """The text of the file that an export button saves."""
        return self.saved(f"document.getElementById('export-{kind}').click()").decode()

    def axe(self, selector: str = "body", *rules: str) -> list[str]:
        """The violations that axe finds in this part of the page: the rule and the element."""
        if not AXE.is_file():
            pytest.skip("axe-core is not installed: npm ci")
        if not self.do("return Boolean(window.axe)"):
            self.do(AXE.read_text(encoding="utf-8"))
        script = """
            const [selector, rules] = arguments;
            const options = rules.length ? { runOnly: { type: "rule", values: rules } } : {
                rules: { "label-content-name-mismatch": { enabled: true }, "target-size": { enabled: true } } };
            return axe.run(selector, options).then(({ violations }) => violations.flatMap(({ id, nodes }) =>
                nodes.map(({ target, failureSummary }) => `${id}: ${target} ${failureSummary}`)));"""
        return list(self.driver.execute_script(script, selector, list(rules)))

    def show_file(self, path: Path, utterances: int = 2) -> None:
        """Open an audio file and skip to its end."""
        self.find("#file").send_keys(str(path))
        self.until(lambda: self.find("#skip").is_displayed())
        self.find("#skip").click()
        self.until(lambda: self.text("#main") == "Open an audio file")
        assert len(self.rows()) == utterances

    def saved(self, act: str) -> bytes:
        """The file that a script makes the page save."""
        script = f"""
            window.saved = null;
            window.URL.createObjectURL = (blob) => {{ window.saved = blob; return "#"; }};
            {act};
            return new Promise((resolve) => {{
                const read = async () => {{
                    const bytes = new Uint8Array(await window.saved.arrayBuffer());
                    resolve(Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(""));
                }};
                const each = setInterval(() => window.saved && (clearInterval(each), read()), 20);
            }});"""
        return bytes.fromhex(self.do(script))

    def hover(self, element: Any) -> None:
        """Put the pointer on an element."""
        from selenium.webdriver import ActionChains

        ActionChains(self.driver, duration=0).move_to_element(element).perform()

    def look(self, scheme: str = "light", width: int = 1280, height: int = 1000) -> None:
        """Set the color scheme and the size of the page."""
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def complaints(self) -> list[str]:
        """Errors in the browser's console, and requests to other hosts."""
        fetched = self.do("return performance.getEntriesByType('resource').map((entry) => entry.name)")
        elsewhere = [name for name in fetched if not name.startswith((self.url, "data:", "blob:"))]
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"] + elsewhere


def _share(text: str) -> float:
    return float(text.strip("<> %").replace(" ", "")) / 100


@contextmanager
def browsing(url: str, microphone: Path, profile: Path, *flags: str) -> Iterator[Page]:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    capture = f"--use-file-for-fake-audio-capture={microphone}%noloop"
    for flag in (*FLAGS, capture, f"--user-data-dir={profile}", *flags):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    try:
        yield Page(driver, url)
    finally:
        driver.quit()
