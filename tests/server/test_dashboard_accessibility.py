"""The dashboard is accessible in every state, and its texts and colors match the state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from browsing import Page, browsing, needs_browser
from makers import babble
from running import Running, running

from streamser.audio import SAMPLE_RATE
from streamser.bundle import Bundle

pytestmark = needs_browser


def hover_over_every_button(page: Page, within: str = "body") -> list[str]:
    """Contrast violations of each visible button while the pointer is on it."""
    found = []
    for button in page.driver.find_elements("css selector", f"{within} button"):
        if button.is_displayed() and button.is_enabled():
            page.hover(button)
            page.do("arguments[0].dataset.probe = ''", button)
            found += page.axe("[data-probe]", "color-contrast")
            page.do("delete arguments[0].dataset.probe", button)
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_the_usual_states_and_with_the_pointer_on_each_button(
    serve: Running, talk: Path, tmp_path: Path, scheme: str
) -> None:
    with browsing(serve.url, talk, tmp_path) as page:
        page.look(scheme)
        assert page.axe() == []
        page.show_file(talk)
        assert page.axe() == []
        assert hover_over_every_button(page) == []
        for opener, dialog in (("#help-open", "#help"), ("#about-open", "#about")):
            page.find(opener).click()
            assert page.find(dialog).is_displayed()
            assert page.axe() == []
            assert hover_over_every_button(page) == []
            page.find(f"{dialog} [data-close]").click()
        page.do("document.querySelector('input[value=browser]').click()")
        page.press("s")
        page.until(lambda: page.text("#main") == "Stop listening")
        page.hover(page.find("#main"))
        assert page.axe() == []
        page.look(scheme, 360, 740)
        assert page.axe() == []


SIZES = (("light", 1280, 1000), ("dark", 1280, 1000), ("light", 360, 740))
"""Color scheme, width and height: a screen and a phone."""

DRAG = """
    const transfer = new DataTransfer();
    transfer.items.add(new File(["sound"], "talk.wav", { type: "audio/wav" }));
    dispatchEvent(new DragEvent(arguments[0], { dataTransfer: transfer, bubbles: true, cancelable: true }));"""


def violations_at_every_size(page: Page, part: str) -> list[str]:
    """Violations at each of `SIZES`, also with the pointer on each button of a part, or if the page is too wide."""
    found = []
    for scheme, width, height in SIZES:
        page.look(scheme, width, height)
        found += page.axe() + hover_over_every_button(page, part)
        if page.do("return document.documentElement.scrollWidth") > width:
            found.append(f"wider than {width}")
    return found


def test_axe_finds_nothing_in_the_question_for_a_token(
    serve: Running, sure: Bundle, talk: Path, tmp_path: Path
) -> None:
    with (
        running(sure.path, "--token", "a-token-for-the-browser") as server,
        browsing(serve.url, talk, tmp_path) as page,
    ):
        page.driver.get(server.url)
        page.until(lambda: page.find("#ask").is_displayed())
        assert violations_at_every_size(page, "#ask") == []
        page.find("#token").send_keys("a-wrong-token-for-it")
        page.find("#ask-form button").click()
        page.until(lambda: "refused this token" in page.text("#ask-refused"))
        assert page.axe() == []
        page.find("#token").send_keys("a-token-for-the-browser")
        page.find("#ask-form button").click()
        page.until(lambda: ":" in page.text("#model"))


def test_axe_finds_nothing_while_a_file_is_dragged_over_the_page(serve: Running, talk: Path, tmp_path: Path) -> None:
    with browsing(serve.url, talk, tmp_path) as page:
        page.do(DRAG, "dragenter")
        assert page.find("#drop").is_displayed()
        found = []
        for scheme, width, height in SIZES:
            page.look(scheme, width, height)
            found += page.axe()
            page.do("document.getElementById('drop').removeAttribute('aria-hidden')")  # axe does not check hidden text
            found += page.axe("#drop", "color-contrast")
            page.do("document.getElementById('drop').setAttribute('aria-hidden', 'true')")
        assert found == []
        page.do(DRAG, "dragleave")
        assert not page.find("#drop").is_displayed()


def test_axe_finds_nothing_in_the_banner_of_an_error(serve: Running, talk: Path, tmp_path: Path) -> None:
    rubbish = tmp_path / "rubbish.wav"
    rubbish.write_bytes(b"no sound at all")
    with browsing(serve.url, talk, tmp_path / "profile") as page:
        page.find("#file").send_keys(str(rubbish))
        page.until(lambda: page.find("#trouble").is_displayed())
        assert violations_at_every_size(page, "#trouble") == []
        page.find("#trouble-close").click()
        assert not page.find("#trouble").is_displayed()


def test_axe_finds_nothing_while_the_server_is_lost(sure: Bundle, talk: Path, tmp_path: Path) -> None:
    with running(sure.path) as server, browsing(server.url, talk, tmp_path) as page:
        page.press("s")
        page.until(lambda: len(page.rows()) > 0)
        server.end()
        page.until(lambda: "trying again" in page.text("#link"))
        assert violations_at_every_size(page, "header") == []


def test_without_a_connection_the_notice_is_a_warning_and_the_level_meter_is_empty(
    sure: Bundle, tmp_path: Path
) -> None:
    loud = tmp_path / "loud.wav"
    soundfile.write(loud, np.repeat(babble(60.0, 1, level=0.4)[:, None], 2, axis=1), SAMPLE_RATE)
    with running(sure.path) as server, browsing(server.url, loud, tmp_path / "profile") as page:
        page.press("s")
        page.until(lambda: page.do("return document.getElementById('level').style.transform") != "scaleX(0)")
        blue = page.find("#notice").value_of_css_property("border-left-color")
        server.end()
        page.until(lambda: "trying again" in page.text("#link"))
        assert page.find("#notice").value_of_css_property("border-left-color") != blue
        assert page.find("#notice").value_of_css_property("border-left-color") == page.find(
            "#link"
        ).value_of_css_property("color")
        page.until(lambda: page.do("return document.getElementById('level').style.transform") == "scaleX(0)")
        levels = page.do(
            """return new Promise((resolve) => { const seen = new Set(); const each = setInterval(() =>
            seen.add(document.getElementById("level").style.transform), 20);
            setTimeout(() => { clearInterval(each); resolve([...seen]); }, 600); })"""
        )
        assert levels == ["scaleX(0)"]


def test_the_selected_utterance_is_named_by_its_time_and_stays_visible_when_zooming(
    serve: Running, talk: Path, tmp_path: Path
) -> None:
    selected_x = "return import('/app.js').then(({ timeline }) => timeline.place(timeline.selected))"
    with browsing(serve.url, talk, tmp_path) as page:
        page.show_file(talk)
        page.until(lambda: "last utterance" in page.text("#verdict-note"))
        older = page.driver.find_elements("css selector", "#rows button.go")[-1]
        older.click()
        page.until(lambda: f"utterance at {older.text}" in page.text("#verdict-note"))
        width = page.do("return document.getElementById('canvas').clientWidth")
        for button in ("#zoom-in", "#zoom-in", "#zoom-out", "#zoom-out", "#zoom-out", "#zoom-in"):
            page.find(button).click()
            left, right = page.do(selected_x)
            assert 0 < left < right <= width, button
        assert page.do("return document.querySelectorAll('#rows tr.selected').length") == 1


def test_skip_works_if_it_is_pressed_before_the_response_arrives(serve: Running, talk: Path, tmp_path: Path) -> None:
    with browsing(serve.url, talk, tmp_path) as page:
        page.do("HTMLMediaElement.prototype.play = () => Promise.resolve()")  # a player that never advances
        page.do("document.getElementById('file').addEventListener('change', () => setTimeout(() => skip.click()))")
        page.find("#file").send_keys(str(talk))
        page.until(lambda: page.text("#main") == "Open an audio file")
        assert len(page.rows()) == 2
