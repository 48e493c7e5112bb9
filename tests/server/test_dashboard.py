"""The page in a real browser, whose microphone is a file."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from makers import babble, make_bundle, silence
from running import Running, running
from talking import finals, plain

from streamser.audio import SAMPLE_RATE, Samples, resample
from streamser.bundle import Bundle, Calibration
from streamser.outputs import open_writer
from streamser.recognizer import Recognizer, load
from streamser.stream.pipeline import replay

webdriver = pytest.importorskip("selenium.webdriver")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
DEADLINE_S = 60.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="chromium and chromedriver are not installed"),
]

# What a browser does behind its user's back, and what it asks its user, is switched off.
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


@pytest.fixture(scope="module")
def sure(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A checkpoint that is sure of itself: a hair's breadth between two ways of sound does not change its answer."""
    folder = tmp_path_factory.mktemp("models") / "sure"
    return make_bundle(folder, calibration=Calibration(temperature=0.2, threshold=0.6))


@pytest.fixture(scope="module")
def judge(sure: Bundle) -> Recognizer:
    return load(sure.path, "cpu")


def coloured(*, bright: bool) -> Samples:
    """A voice through a filter that the test's checkpoint cannot mistake for the other."""
    voice = babble(1.8, 1, level=0.4)
    hz = np.fft.rfftfreq(len(voice), 1 / SAMPLE_RATE)
    gain = hz / (hz + 1500) if bright else 1 / (1 + (hz / 400) ** 2)
    filtered = np.fft.irfft(np.fft.rfft(voice) * gain, len(voice))
    return (0.3 * filtered / np.abs(filtered).max()).astype(np.float32)


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two utterances of two answers, as the 48 kHz stereo that the fake microphone of the browser wants."""
    parts = [silence(1.2), coloured(bright=True), silence(1.2), coloured(bright=False), silence(1.5)]
    sound = resample(np.concatenate(parts), SAMPLE_RATE, 48_000)
    path = tmp_path_factory.mktemp("sound") / "talk.wav"
    soundfile.write(path, np.stack([sound, sound], axis=1), 48_000, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def serve(sure: Bundle) -> Iterator[Running]:
    with running(sure.path) as server:
        yield server


@pytest.fixture(scope="module")
def truth(judge: Recognizer, talk: Path) -> list[dict[str, Any]]:
    """What `streamser replay` says of the same file."""
    return [event.to_dict() for event in replay(talk, model=judge)]


class Page:
    """The dashboard, as a user handles it."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver = driver
        self.url = url.partition("#")[0]
        driver.get(url)
        self.until(lambda: "model" in self.text("#model"))

    def do(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def text(self, selector: str) -> str:
        return str(self.find(selector).text)

    def press(self, key: str) -> None:
        """A key on the page itself."""
        self.find("body").send_keys(key)

    def rows(self) -> list[tuple[str, str, float]]:
        """Emotion, as it is shown, the likeliest label and the confidence of every utterance, the first one first."""
        script = """return [...document.querySelectorAll("#rows tr")].reverse().map((row) => [
            row.querySelector(".emotion").textContent, row.dataset.label, row.querySelector(".meter").textContent])"""
        return [(shown, label, _share(meter)) for shown, label, meter in self.do(script)]

    def until(self, holds: Callable[[], object]) -> None:
        """Wait, looking ten times a second."""
        deadline = time.monotonic() + DEADLINE_S
        while not holds():
            assert time.monotonic() < deadline, f"{self.text('#link')} {self.text('#trouble')} {self.rows()}"
            self.do("return new Promise((resolve) => setTimeout(resolve, 100))")

    def export(self, kind: str) -> str:
        """What a click on an export button would have saved."""
        script = """
            window.URL.createObjectURL = (blob) => { window.saved = blob; return "#"; };
            document.getElementById("export-" + arguments[0]).click();
            return window.saved.text();"""
        return str(self.driver.execute_script(script, kind))

    def complaints(self) -> list[str]:
        """What the browser's console has to say, and what was fetched from elsewhere."""
        fetched = self.do("return performance.getEntriesByType('resource').map((entry) => entry.name)")
        elsewhere = [name for name in fetched if not name.startswith((self.url, "data:", "blob:"))]
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"] + elsewhere


def _share(text: str) -> float:
    return float(text.strip("<> %").replace(" ", "")) / 100


@contextmanager
def browsing(url: str, microphone: Path, profile: Path, *flags: str) -> Iterator[Page]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    hears = f"--use-file-for-fake-audio-capture={microphone}%noloop"
    for flag in (*FLAGS, hears, f"--user-data-dir={profile}", *flags):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    try:
        yield Page(driver, url)
    finally:
        driver.quit()


def test_the_browsers_microphone_gives_the_finals_that_replay_gives_for_the_same_file(
    serve: Running, talk: Path, truth: list[dict[str, Any]], tmp_path: Path
) -> None:
    expected = finals(truth)
    assert [final["label"] for final in expected] == ["happy", "neutral"]
    with browsing(serve.url, talk, tmp_path) as page:
        page.press("s")
        page.until(lambda: page.find("#notice").is_displayed())
        assert "goes only to this streamser server" in page.text("#notice")
        assert "not stored" in page.text("#notice")
        page.until(lambda: len(page.rows()) == 2)
        page.press("s")
        page.until(lambda: page.text("#main") == "Start listening")
        rows = page.rows()
        assert [label for _, label, _ in rows] == [final["label"] for final in expected]
        for (_, _, share), final in zip(rows, expected, strict=True):
            assert share == pytest.approx(final["confidence"], abs=0.2)  # the browser plays the file 2 % softer
        assert "confident" in page.text("#verdict-note")
        assert page.complaints() == []


def test_a_file_gives_exactly_what_replay_gives_and_the_exports_hold_it(
    serve: Running, talk: Path, truth: list[dict[str, Any]], tmp_path: Path, judge: Recognizer
) -> None:
    with browsing(serve.url, talk, tmp_path / "profile") as page:
        page.find("#file").send_keys(str(talk))
        page.until(lambda: page.find("#skip").is_displayed())
        page.press("a")
        page.until(lambda: page.text("#main") == "Open a sound file")
        told = [json.loads(line) for line in page.export("jsonl").splitlines()]
        by_type = sorted(plain(told), key=str)
        assert by_type == sorted(plain(truth), key=str)
        assert {event["stream"] for event in told} == {"talk.wav"}
        for kind in ("csv", "vtt"):
            path = tmp_path / f"replayed.{kind}"
            with open_writer(path, labels=judge.labels) as writer:
                for event in replay(talk, model=judge):
                    writer.write(event)
            assert page.export(kind).replace("talk.wav,", "main,") == path.read_text()
        assert page.complaints() == []


def test_the_javascript_example_of_the_document_gives_the_finals(
    serve: Running, talk: Path, truth: list[dict[str, Any]], tmp_path: Path
) -> None:
    document = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
    example = document.partition("```javascript\n")[2].partition("```")[0]
    samples, rate = soundfile.read(talk, dtype="int16")
    with browsing(serve.url, talk, tmp_path) as page:
        url = serve.url.replace("http", "ws") + "ws/stream"
        call = f"return judge(Int16Array.from(arguments[0]), {rate}, '{url}')"
        told = page.driver.execute_script(f"{example}\n{call}", samples[:, 0].tolist())
    assert [event["label"] for event in told] == [final["label"] for final in finals(truth)]


def test_what_is_uncertain_is_called_so_and_not_by_a_label(talk: Path, tmp_path: Path) -> None:
    unsure = make_bundle(tmp_path / "unsure", calibration=Calibration(temperature=50.0, threshold=0.9))
    with running(unsure.path) as server, browsing(server.url, talk, tmp_path / "profile") as page:
        page.find("#file").send_keys(str(talk))
        page.until(lambda: page.find("#skip").is_displayed())
        page.find("#skip").click()
        page.until(lambda: len(page.rows()) == 2)
        assert all(shown.startswith("uncertain") for shown, _, _ in page.rows())
        assert page.text("#verdict-word") == "uncertain"
        assert "uncertain" in page.do("return document.getElementById('announce').textContent")


def test_a_lost_server_is_said_and_when_it_is_back_listening_goes_on(sure: Bundle, talk: Path, tmp_path: Path) -> None:
    with running(sure.path) as server:
        port = server.url.rstrip("/").rpartition(":")[2]
        with browsing(server.url, talk, tmp_path) as page:
            page.press("s")
            page.until(lambda: page.text("#link") == "connected")
            server.end()
            page.until(lambda: "trying again" in page.text("#link"))
            assert "no sound is sent" in page.text("#notice")
            with running(sure.path, "--port", port):
                page.until(lambda: page.text("#link") == "connected")
                assert "goes only to this streamser server" in page.text("#notice")
                page.until(lambda: page.text("#vad-text") == "quiet")


def test_a_token_opens_the_page_and_leaves_the_address_bar(sure: Bundle, talk: Path, tmp_path: Path) -> None:
    token = "a-token-for-the-browser"
    with (
        running(sure.path, "--token", token) as server,
        browsing(f"{server.url}#token={token}", talk, tmp_path) as page,
    ):
        assert token not in page.driver.current_url
        page.find("#file").send_keys(str(talk))
        page.until(lambda: page.find("#skip").is_displayed())
        page.find("#skip").click()
        page.until(lambda: len(page.rows()) == 2)


def test_a_file_that_is_no_sound_is_refused_on_the_page_in_words(serve: Running, talk: Path, tmp_path: Path) -> None:
    rubbish = tmp_path / "rubbish.wav"
    rubbish.write_bytes(b"no sound at all")
    with browsing(serve.url, talk, tmp_path / "profile") as page:
        page.find("#file").send_keys(str(rubbish))
        page.until(lambda: page.find("#trouble").is_displayed())
        assert "rubbish.wav: not a sound file" in page.text("#trouble-text")
        assert page.text("#main") == "Open a sound file"


def test_everything_has_a_name_a_focus_and_room_on_a_phone(serve: Running, talk: Path, tmp_path: Path) -> None:
    with browsing(serve.url, talk, tmp_path) as page:
        phone = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
        page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        assert page.do("return document.documentElement.scrollWidth") <= 360
        tree = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        named = [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in tree
            if not node.get("ignored") and node["role"]["value"] in ("button", "radio", "combobox", "table", "dialog")
        ]
        assert len(named) > 10
        assert [role for role, name in named if not name.strip()] == []
        reached = set()
        for _ in range(25):
            page.driver.switch_to.active_element.send_keys("\ue004")  # Tab
            reached.add(page.do("return document.activeElement.id || document.activeElement.name"))
        assert {"source", "main", "stage", "zoom-in", "about-open", "help-open"} <= reached
        page.press("?")
        assert page.find("#help").is_displayed()
