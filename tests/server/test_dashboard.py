"""The dashboard in a real browser gives the events of `streamser replay`, shows its state, and is accessible."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from browsing import browsing, needs_browser
from makers import make_adaptive, make_bundle
from running import Running, running
from talking import finals, plain

from streamser.bundle import Bundle
from streamser.calibration import Calibration
from streamser.outputs import open_writer
from streamser.recognizer import Recognizer
from streamser.stream.pipeline import replay

pytestmark = needs_browser


def test_the_browsers_microphone_gives_the_same_finals_as_replay(
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


def test_a_file_gives_the_same_events_as_replay_and_exports_the_same_files(
    serve: Running, talk: Path, truth: list[dict[str, Any]], tmp_path: Path, sure_recognizer: Recognizer
) -> None:
    with browsing(serve.url, talk, tmp_path / "profile") as page:
        page.find("#file").send_keys(str(talk))
        page.until(lambda: page.find("#skip").is_displayed())
        page.press("a")
        page.until(lambda: page.text("#main") == "Open an audio file")
        exported = [json.loads(line) for line in page.export("jsonl").splitlines()]
        by_type = sorted(plain(exported), key=str)
        assert by_type == sorted(plain(truth), key=str)
        assert {event["stream"] for event in exported} == {"talk"}
        for kind in ("csv", "vtt"):
            path = tmp_path / f"replayed.{kind}"
            with open_writer(path, labels=sure_recognizer.labels) as writer:
                for event in replay(talk, model=sure_recognizer):
                    writer.write(event)
            assert page.export(kind).replace("talk,", "main,") == path.read_text()
        assert page.complaints() == []


def test_the_javascript_example_in_the_documentation_gives_the_finals(
    serve: Running, talk: Path, truth: list[dict[str, Any]], tmp_path: Path
) -> None:
    document = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
    example = document.partition("```javascript\n")[2].partition("```")[0]
    samples, rate = soundfile.read(talk, dtype="int16")
    with browsing(serve.url, talk, tmp_path) as page:
        url = serve.url.replace("http", "ws") + "ws/stream"
        call = f"return classify(Int16Array.from(arguments[0]), {rate}, '{url}')"
        exported = page.driver.execute_script(f"{example}\n{call}", samples[:, 0].tolist())
    assert [event["label"] for event in exported] == [final["label"] for final in finals(truth)]


def test_an_uncertain_result_is_shown_as_uncertain_and_not_as_a_label(talk: Path, tmp_path: Path) -> None:
    unsure = make_bundle(tmp_path / "unsure", calibration=Calibration(temperature=50.0, threshold=0.9))
    with running(unsure.path) as server, browsing(server.url, talk, tmp_path / "profile") as page:
        page.find("#file").send_keys(str(talk))
        page.until(lambda: page.find("#skip").is_displayed())
        page.find("#skip").click()
        page.until(lambda: len(page.rows()) == 2)
        assert all(shown.startswith("uncertain") for shown, _, _ in page.rows())
        page.until(lambda: page.text("#verdict-word") == "uncertain")
        assert "uncertain" in page.do("return document.getElementById('announce').textContent")


def test_the_page_shows_the_size_of_the_baseline_and_a_button_starts_a_new_baseline(talk: Path, tmp_path: Path) -> None:
    adaptive = make_adaptive(tmp_path / "adaptive")
    audio, rate = soundfile.read(talk, dtype="int16")
    twice = tmp_path / "twice.wav"  # four utterances; the button is pressed during the second one
    soundfile.write(twice, np.concatenate([audio, audio]), rate, subtype="PCM_16")
    with running(adaptive.path) as server, browsing(server.url, twice, tmp_path / "profile") as page:
        assert not page.find("#voice").is_displayed()
        page.press("s")
        page.until(lambda: "baseline of" in page.text("#voice-text"))
        page.find("#new-speaker").click()
        page.until(lambda: page.text("#voice-text") == "voice: no baseline yet")
        page.until(lambda: len(page.rows()) == 4)
        page.press("s")
        page.until(lambda: page.text("#main") == "Start listening")
        counts = [
            event["baseline_utterances"]
            for event in map(json.loads, page.export("jsonl").splitlines())
            if event["type"] == "emotion" and event["final"]
        ]
        assert counts == [0, 1, 0, 1]
        assert page.complaints() == []


def test_a_lost_server_is_reported_and_listening_continues_when_it_is_back(
    sure: Bundle, talk: Path, tmp_path: Path
) -> None:
    with running(sure.path) as server:
        port = server.url.rstrip("/").rpartition(":")[2]
        with browsing(server.url, talk, tmp_path) as page:
            page.press("s")
            page.until(lambda: page.text("#link") == "connected")
            server.end()
            page.until(lambda: "trying again" in page.text("#link"))
            assert "no audio is sent" in page.text("#notice")
            with running(sure.path, "--port", port):
                page.until(lambda: page.text("#link") == "connected")
                assert "goes only to this streamser server" in page.text("#notice")
                page.until(lambda: page.text("#vad-text") == "quiet")


def test_a_token_in_the_address_is_used_and_removed_from_the_address_bar(
    sure: Bundle, talk: Path, tmp_path: Path
) -> None:
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


def test_a_file_that_is_no_audio_is_refused_with_a_message_on_the_page(
    serve: Running, talk: Path, tmp_path: Path
) -> None:
    rubbish = tmp_path / "rubbish.wav"
    rubbish.write_bytes(b"no sound at all")
    with browsing(serve.url, talk, tmp_path / "profile") as page:
        page.find("#file").send_keys(str(rubbish))
        page.until(lambda: page.find("#trouble").is_displayed())
        assert "rubbish.wav: not a readable audio file" in page.text("#trouble-text")
        assert page.text("#main") == "Open an audio file"


def test_every_control_has_a_name_and_can_be_focused_and_the_page_fits_a_phone(
    serve: Running, talk: Path, tmp_path: Path
) -> None:
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
