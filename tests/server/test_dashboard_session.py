"""A session in the dashboard: playing, correcting, exporting for training, zooming, and hours of events."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from browsing import Page, browsing, needs_browser
from running import Running, running
from talking import plain

import streamser
from streamser.audio import read_audio
from streamser.bundle import DEFAULT_MODEL
from streamser.cli import main
from streamser.corpora.reader import AudioCheck, read_corpus
from streamser.recognizer import Recognizer
from streamser.samples import find_samples

pytestmark = needs_browser

APP = "return import('/app.js').then(({ session, memory, player, timeline, makeListener }) => { %s })"


def app(page: Page, script: str) -> object:
    """Run a script that can use the page's session, memory, player and timeline."""
    return page.do(APP % script)


def test_an_utterance_can_be_played_once_or_in_a_loop(serve: Running, talk: Path, tmp_path: Path) -> None:
    with browsing(serve.url, talk, tmp_path) as page:
        page.show_file(talk)
        start, end, length_s, peak, shown = app(  # type: ignore[misc]
            page,
            """document.querySelectorAll('#rows button.hear')[1].click();
            const { buffer } = player.node; const { start, end } = player.part;
            return [start, end, buffer.duration, Math.max(...buffer.getChannelData(0)), hear.textContent];""",
        )
        assert shown == "Stop"
        assert length_s == pytest.approx(end - start, abs=0.01)
        audio = read_audio(talk)
        assert peak == pytest.approx(audio[int(16000 * start) : int(16000 * end)].max(), abs=0.05)
        page.until(lambda: page.text("#hear") == "Play utterance")  # playing ends by itself
        page.press("l")
        page.press("h")
        page.until(lambda: page.text("#hear") == "Stop")
        assert app(page, "return player.node.loop")
        page.press("h")
        page.until(lambda: page.text("#hear") == "Play utterance")
        page.find("#clear").click()
        assert app(page, "return memory.seconds") == 0


def test_only_the_last_ten_minutes_of_the_microphone_are_kept(serve: Running, talk: Path, tmp_path: Path) -> None:
    with browsing(serve.url, talk, tmp_path) as page:
        page.press("s")
        page.until(lambda: len(page.rows()) == 2)
        page.press("s")
        page.until(lambda: page.text("#main") == "Start listening")
        assert app(page, "return memory.between(session.finals[0].start, session.finals[0].end) !== null")
        script = """memory.clear();
            for (let at = 0; at < 700; at += 1) memory.add(at, new Int16Array(48000).fill(at), 48000);
            return [memory.seconds, memory.start, memory.between(20, 21), memory.between(650.5, 651.5).pcm[24100]];"""
        seconds, start, old, value = app(page, script)  # type: ignore[misc]
        assert 600 <= seconds <= 605
        assert start == pytest.approx(700 - seconds)
        assert old is None
        assert value == 651


def train_on(root: Path, corrected: str) -> None:
    """Train a network on a synthetic corpus and the corrected clips; check that its card names the corrected corpus."""
    pytest.importorskip("torch")
    from corpus_maker import make_corpus

    from streamser.recognizer import load

    make_corpus(root / "tiny", speakers=4, takes=1)
    recipe = {
        "name": "tiny",
        "variant": "lightsernet",
        "corpora": ["tiny", corrected],
        "labels": ["angry", "happy", "neutral", "sad"],
        "features": {"scale": "standard", "n_mels": 40, "length_s": 0.8},
        "loss": {"weighted": False},
        "epochs": 1,
        "passes_per_epoch": 16,
        "batch": 8,
    }
    (root / "recipe.yaml").write_text(json.dumps(recipe))
    words = ["train", root / "recipe.yaml", "--corpora-root", root, "--out", root / "run", "--save", root / "shipped"]
    words += ["--set", "protocol=ship", "--cache", root / "cache", "--workers", "1", "--threads", "1"]
    assert main([str(word) for word in words]) == 0
    assert load(root / "shipped").labels == ("angry", "happy", "neutral", "sad")
    assert corrected in (root / "shipped" / "README.md").read_text()


def test_corrections_are_exported_as_a_corpus_that_can_be_trained_on(
    serve: Running, talk: Path, tmp_path: Path
) -> None:
    with browsing(serve.url, talk, tmp_path / "profile") as page:
        page.show_file(talk)
        assert not page.find("#export-corpus").is_enabled()
        happy, neutral = (f"{1 + ['angry', 'happy', 'neutral', 'sad'].index(word)}" for word in ("happy", "neutral"))
        page.press(happy)  # without a selection, the key corrects the last utterance, which is neutral
        assert [row.text for row in page.driver.find_elements("css selector", "td.correction")] == [
            "corrected to happy",
            "",
        ]
        page.press("k")
        page.press("j")
        page.press(neutral)
        assert page.find("#say [data-label=neutral]").get_attribute("aria-pressed") == "true"
        page.find("#note").send_keys('"why", she said\t')
        page.find("#speaker").send_keys("ada")
        archive = zipfile.ZipFile(io.BytesIO(page.saved("document.getElementById('export-corpus').click()")))
        assert archive.testzip() is None
        archive.extractall(tmp_path / "mine")
        clips, report = read_corpus(tmp_path / "mine", check=AudioCheck())
        assert [(clip.speaker, clip.label) for clip in clips] == [("mine/ada", "neutral"), ("mine/ada", "happy")]
        assert report.problems == ()
        finals = [json.loads(line) for line in archive.read("session.jsonl").splitlines()]
        first = next(event for event in finals if event["type"] == "emotion" and event["final"])
        info = soundfile.info(str(clips[0].path))
        assert info.duration == pytest.approx(first["end_s"] - first["start_s"], abs=0.01)
        train_on(tmp_path, "mine")
        rows = archive.read("corrections.csv").decode()
        assert '"""why"", she said"' in rows
        page.press("x")
        page.press("w")
        archive = zipfile.ZipFile(io.BytesIO(page.saved("document.getElementById('export-corpus').click()")))
        # An utterance that is only marked as wrong has no label to train on.
        assert len(archive.read("manifest.csv").splitlines()) == 2
        assert b",wrong," in archive.read("corrections.csv")


def test_the_summary_counts_utterances_labels_and_corrections(serve: Running, talk: Path, tmp_path: Path) -> None:
    with browsing(serve.url, talk, tmp_path) as page:
        assert not page.find("#summary").is_displayed()
        page.show_file(talk)
        text = page.text("#summary")
        assert "2 utterances" in text
        assert "no audio was lost" in text
        shares = [item.text for item in page.driver.find_elements("css selector", "#summary-shares li")]
        assert len(shares) == 2
        assert all("1 utterance" in share for share in shares)
        page.press("w")
        page.until(
            lambda: "1 utterance confirmed or corrected; of 1 confident label, 0 were right" in page.text("#summary")
        )


def test_wheel_and_pinch_zoom_at_the_pointer_and_z_zooms_to_the_utterance(
    serve: Running, talk: Path, tmp_path: Path
) -> None:
    with browsing(serve.url, talk, tmp_path) as page:
        page.show_file(talk)
        zoomed = """const x = canvas.getBoundingClientRect().left + 300; const before = timeline.timeAt(x);
            const span = timeline.span; %s; return [span, timeline.span, timeline.timeAt(x) - before];"""
        wheel = """stage.dispatchEvent(new WheelEvent('wheel', { deltaY: -100, ctrlKey: true, clientX: x,
            cancelable: true }))"""
        span, after, moved = app(page, zoomed % wheel)  # type: ignore[misc]
        assert after < span
        assert moved == pytest.approx(0, abs=0.01)
        pinch = """const send = (kind, pointerId, clientX) =>
                stage.dispatchEvent(new PointerEvent(kind, { pointerId, clientX }));
            stage.setPointerCapture = () => {};
            send('pointerdown', 1, x - 50); send('pointerdown', 2, x + 50);
            send('pointermove', 1, x - 100); send('pointermove', 2, x + 100);
            send('pointerup', 1, x - 100); send('pointerup', 2, x + 100)"""
        span, after, moved = app(page, zoomed % pinch)  # type: ignore[misc]
        assert after == pytest.approx(span / 2, rel=0.01)
        page.press("k")
        page.press("z")
        left, right, width = app(page, "return [...timeline.place(timeline.selected), canvas.clientWidth]")  # type: ignore[misc]
        assert 0 < left < right <= width
        assert right - left > width / 2


def test_pitch_and_spectrum_of_synthetic_audio_are_right(serve: Running, talk: Path, tmp_path: Path) -> None:
    script = """const [hz, rate] = arguments;
        return import('/acoustics.js').then(({ analyze, decimate }) => {
            const pcm = Int16Array.from({ length: 0.7 * rate }, (_, i) =>
                [1, 2, 3, 4].reduce((sum, k) => sum + 4000 * Math.sin(2 * Math.PI * k * hz * i / rate), 0));
            const { levels, pitch } = analyze(decimate(pcm, rate / 16000), 16000);
            return [[...pitch], [...Array(80).keys()].map((row) => levels[row * 25 + 12])]; });"""
    with browsing(serve.url, talk, tmp_path) as page:
        for hz, rate in ((110, 16_000), (220, 48_000), (350, 48_000)):
            pitch, levels = page.do(script, hz, rate)
            assert np.median(pitch) == pytest.approx(hz, rel=0.02)
            loudest = np.argsort(levels)[-4:]
            assert set(loudest) <= {round(k * hz / 62.5 + shift) for k in (1, 2, 3, 4) for shift in (-1, -0.5, 0, 0.5)}
            assert max(levels[40:]) == 0  # nothing above 2.5 kHz
        page.show_file(talk)
        heights = []
        for lane in ("#lane-spectrum", "#lane-pitch"):
            page.find(lane).click()
            heights.append(page.do("return document.getElementById('canvas').clientHeight"))
        assert heights[1] > heights[0]
        page.until(lambda: app(page, "return !timeline.acoustics.isBehind && timeline.acoustics.tiles.size > 5"))
        assert page.complaints() == []


HOUR = """
const listener = makeListener("browser");
const colours = { angry: "#DD4E03", happy: "#F4C63A", neutral: "#8C8C8C", sad: "#436EDB" };
listener.ready({ stream: "hour", colours }, 0);
const labels = ["angry", "happy", "neutral", "sad"];
const began = performance.now();
for (let u = 0; u < 1200; u++) {
    const start_s = 3 * u;
    const common = { v: 1, stream: "hour", utterance: u, start_s };
    listener.event({ ...common, type: "speech_started", continues: false });
    for (let seq = 0; seq < 9; seq++) {
        const end_s = start_s + 0.25 * (seq + 1);
        const label = labels[u % 4];
        const scores = Object.fromEntries(labels.map((each) => [each, each === label ? 0.7 : 0.1]));
        listener.audio(end_s - 0.25, end_s, -0.2, 0.2);
        const result = { label, scores, confidence: 0.7, uncertain: u % 7 === 0 };
        listener.event({ ...common, type: "emotion", seq, end_s, final: seq === 8, ...result });
    }
    listener.event({ ...common, type: "speech_ended", end_s: start_s + 2.25, reason: "silence" });
}
const took = performance.now() - began;
timeline.zoom(90);
timeline.stale = true;
const drawing = performance.now();
timeline.draw();
return [session.finals.length, took, performance.now() - drawing, document.querySelectorAll("*").length];
"""


def test_an_hour_of_events_adds_few_elements_to_the_page(serve: Running, talk: Path, tmp_path: Path) -> None:
    with browsing(serve.url, talk, tmp_path) as page:
        before = page.do("return document.querySelectorAll('*').length")
        finals, took_ms, drawing_ms, elements = app(page, HOUR)  # type: ignore[misc]
        print(f"an hour: events {took_ms:.0f} ms, drawing {drawing_ms:.1f} ms, elements {before} -> {elements}")
        assert finals == 1200
        assert elements < before + 1000
        assert page.find("#count").text == "1200"
        assert int(page.find("#utterances").get_attribute("aria-rowcount")) == 1201
        box = "document.getElementById('table-box')"
        page.do(f"{box}.scrollTop = {box}.scrollHeight")
        page.until(lambda: "0:00.0" in page.do("return [...document.querySelectorAll('button.go')].at(-1).textContent"))
        assert page.do("return document.querySelectorAll('*').length") < before + 1000
        page.do("[...document.querySelectorAll('button.go')].at(-1).click()")
        page.do(f"{box}.scrollTop = 0")
        page.press("j")  # no utterance is older than the first one: the selection stays
        page.press("k")
        page.until(lambda: page.text("#detail-what").startswith("0:03.0"))
        page.until(lambda: page.find("#rows tr.selected").is_displayed())


def test_results_of_two_checkpoints_are_shown_side_by_side_and_both_can_be_chosen(talk: Path, tmp_path: Path) -> None:
    with running(Path(DEFAULT_MODEL)) as server, browsing(server.url, talk, tmp_path) as page:
        assert page.find("#models").is_displayed()
        names = page.do("return [...document.getElementById('second').options].map((option) => option.value)")
        assert {"", DEFAULT_MODEL, "lightsernet", "lightsernet-emodb"} <= set(names)
        page.do("document.getElementById('second').value = 'lightsernet-emodb'")
        page.show_file(talk)
        second = [cell.text for cell in page.driver.find_elements("css selector", "td.second")]
        assert len(second) == 2
        assert all(second)
        page.until(lambda: page.text("#verdict-second").startswith("lightsernet-emodb: "))
        assert "the two checkpoints gave the same label" in page.text("#summary")
        assert page.axe() == []
        page.find("#clear").click()
        page.do("document.getElementById('second').value = ''")
        page.do("document.getElementById('checkpoint').value = 'lightsernet-emodb'")
        page.show_file(talk)
        assert len(page.driver.find_elements("css selector", "#bars li")) == 7
        page.do(f"document.getElementById('checkpoint').value = '{DEFAULT_MODEL}'")
        page.do("document.getElementById('second').value = 'lightsernet'")
        page.do("document.querySelector('input[value=browser]').click()")
        page.press("s")  # both checkpoints get the browser's microphone
        page.until(lambda: page.text("#main") == "Stop listening")
        page.until(lambda: len(page.rows()) == 4)
        page.press("s")
        page.until(lambda: page.text("#main") == "Start listening")
        assert all(cell.text for cell in page.driver.find_elements("css selector", "td.second")[:2])
        assert len(page.driver.find_elements("css selector", "#bars li")) == 4


def test_the_samples_can_be_played_without_a_microphone(talk: Path, tmp_path: Path) -> None:
    with running(Path(DEFAULT_MODEL)) as server, browsing(server.url, talk, tmp_path) as page:
        page.find("#sample").click()
        page.until(lambda: page.find("#skip").is_displayed())
        page.press("a")
        page.until(lambda: page.text("#main") == "Open an audio file")
        assert len(page.rows()) == len(find_samples())
        assert page.complaints() == []


def test_errors_name_the_file_and_no_python_object(serve: Running, talk: Path, tmp_path: Path) -> None:
    rubbish = tmp_path / "rubbish.wav"
    rubbish.write_bytes(b"RIFFxxxxWAVEno sound at all")
    with browsing(serve.url, talk, tmp_path / "profile") as page:
        page.find("#file").send_keys(str(rubbish))
        page.until(lambda: page.find("#trouble").is_displayed())
        assert page.text("#trouble-text").startswith("rubbish.wav: ")
        assert "BytesIO" not in page.text("#trouble-text")
        page.do("document.getElementById('export-csv').disabled = false; document.getElementById('export-csv').click()")
        page.until(lambda: "The export failed: " in page.text("#trouble-text"))


_ASKS_BEFORE_CLOSING = """
const closing = new Event("beforeunload", { cancelable: true });
dispatchEvent(closing);
return closing.defaultPrevented;
"""  # chromedriver confirms the browser's question before a test can see it


def test_clear_asks_for_confirmation_if_corrections_are_not_exported(
    serve: Running, talk: Path, tmp_path: Path
) -> None:
    with browsing(serve.url, talk, tmp_path) as page:
        assert "Your corrections are in" in page.text("#export-hint")
        page.show_file(talk)
        assert not page.do(_ASKS_BEFORE_CLOSING)
        page.press("1")
        page.until(lambda: page.do(_ASKS_BEFORE_CLOSING))
        page.find("#clear").click()
        page.until(lambda: page.find("#forget").is_displayed())
        assert page.text("#forget-words").startswith("1 correction is not exported.")
        assert page.axe("#forget") == []
        page.find("#forget [value=stay]").click()
        assert len(page.rows()) == 2
        page.find("#clear").click()
        page.until(lambda: page.find("#forget").is_displayed())
        export = page.saved("document.querySelector('#forget [value=export]').click()")
        assert b"corrections.csv" in export
        page.until(lambda: page.rows() == [])
        assert not page.find("#export-corpus").is_enabled()  # there is nothing to export any more
        page.show_file(talk)
        page.press("1")
        page.saved("document.getElementById('export-corpus').click()")
        assert not page.do(_ASKS_BEFORE_CLOSING)
        page.find("#clear").click()  # everything is exported, so the page does not ask
        page.until(lambda: page.rows() == [])


def test_the_text_of_the_empty_table_depends_on_whether_the_microphone_is_on(
    serve: Running, talk: Path, tmp_path: Path
) -> None:
    with browsing(serve.url, talk, tmp_path) as page:
        assert "Start listening and speak" in page.text("#empty")
        page.press("s")
        page.until(lambda: len(page.rows()) == 2)
        page.find("#clear").click()
        page.until(lambda: page.text("#empty") == "No utterances yet. The microphone is on: speak.")
        page.press("s")
        page.until(lambda: "Start listening and speak" in page.text("#empty"))


def test_an_empty_file_is_reported_until_another_source_is_chosen(serve: Running, talk: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.wav"
    empty.touch()
    with browsing(serve.url, talk, tmp_path / "profile") as page:
        page.find("#file").send_keys(str(empty))
        page.until(lambda: page.find("#trouble").is_displayed())
        assert page.text("#trouble-text") == "empty.wav: the file is empty (0 bytes)."
        page.press("m")
        assert not page.find("#trouble").is_displayed()


def test_the_javascript_client_gives_the_same_events_and_errors_as_the_python_client(
    serve: Running, talk: Path, tmp_path: Path
) -> None:
    samples, rate = soundfile.read(talk, dtype="int16")
    script = """const [samples, sample_rate, wrong] = arguments;
        return import('/client.js').then(async ({ Client, ServerError }) => {
            const client = new Client();
            const events = [];
            const listener = { event: (event) => events.push(event) };
            const stream = client.stream({ sample_rate, lossless: true, stream: 'js' }, listener);
            const { stream: name } = await stream.ready;
            const pcm = Int16Array.from(samples);
            for (let i = 0; i < pcm.length; i += 4800) stream.send(pcm.slice(i, i + 4800));
            stream.lose(480);
            await stream.end();
            const refused = await client.label(new Uint8Array([1, 2, 3])).catch((error) => error);
            const closed = await client.stream({ sample_rate: 1 }, {}).ready.catch((error) => error);
            const csv = await (await client.export(events, 'csv')).text();
            return [name, events, refused instanceof ServerError && refused.code, closed.code, csv]; });"""
    with browsing(serve.url, talk, tmp_path) as page:
        name, events, refused, closed, csv = page.do(script, samples[:, 0].tolist(), rate)
    with streamser.Client(serve.url).stream(sample_rate=rate, lossless=True) as stream:
        expected = []
        for first in range(0, len(samples), 4800):
            expected += stream.push(samples[first : first + 4800, 0])
        stream.lose(480)
        expected += stream.finish()
    assert name == "js"
    assert plain(events) == plain([event.to_dict() for event in expected])
    assert (refused, closed) == ("not_sound", "sample_rate")
    assert len(csv.splitlines()) == 3


def test_a_new_speaker_button_restarts_the_baseline_and_the_stream_continues(
    adaptive: Recognizer, talk: Path, tmp_path: Path
) -> None:
    with running(adaptive.bundle.path) as server, browsing(server.url, talk, tmp_path) as page:
        assert not page.find("#voice").is_displayed()
        page.press("s")
        page.until(lambda: "baseline of 1 utterance" in page.text("#voice"))
        page.find("#new-speaker").click()
        page.until(lambda: len(page.rows()) == 2)  # the server continues the stream
        # Without the restart there would be two utterances. A slow browser may miss the time without a baseline.
        page.until(lambda: any(text in page.text("#voice") for text in ("no baseline yet", "baseline of 1 utterance")))
        assert page.text("#link") == "connected"
        page.press("s")
        page.until(lambda: page.text("#main") == "Start listening")
        assert not page.find("#voice").is_displayed()
        assert page.complaints() == []
