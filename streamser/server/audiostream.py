"""Process a client's audio for the worker: the part of a stream that runs on a thread, not on the event loop."""

from __future__ import annotations

import io
from collections.abc import Iterator

from streamser.audio import SAMPLE_RATE, AudioBlock, Samples, cut_off, mono_pieces, open_audio
from streamser.events import Gap
from streamser.stream.channel import WorkerStream
from streamser.stream.pcm import Pcm, PcmConverter
from streamser.stream.segmenter import State
from streamser.stream.status import StreamStatus
from streamser.stream.wavfile import WavWriter


class AudioStream:
    """Resamples and segments audio, and submits it to the worker; any thread may call it, one call at a time."""

    def __init__(
        self,
        stream: WorkerStream,
        sample_rate: int = SAMPLE_RATE,
        channels: int = 1,
        recording: WavWriter | None = None,
    ) -> None:
        self.name = stream.name
        self.sample_rate = sample_rate
        self._converter = PcmConverter(sample_rate, channels)
        self._stream = stream
        self._recording = recording

    @property
    def waiting(self) -> int:
        """Number of results that the worker has not computed yet."""
        return self._stream.waiting

    @property
    def position_s(self) -> float:
        """Seconds of audio so far."""
        return self._stream.position / SAMPLE_RATE

    def status(self) -> StreamStatus:
        """The stream's present status."""
        return self._stream.status()

    @property
    def vad_state(self) -> State:
        """Whether somebody speaks."""
        return self._stream.vad_state

    def hold(self, pcm: Pcm, arrived_s: float) -> bool:
        """Keep this audio for the next call of another method, without a thread; False if it must be fed now."""
        return self._recording is None and self._converter.can_wait(pcm) and self._stream.hold(pcm, arrived_s)

    def feed(self, pcm: Pcm, arrived_s: float | None = None) -> None:
        """Take audio at the client's own rate; `arrived_s` is when it came in, on time.monotonic."""
        self._feed(self._converter.feed(pcm), arrived_s)

    def skip(self, samples: int) -> None:
        """Report samples (at the client's rate) that the client lost; audio sent before them is processed first."""
        self._feed(self._converter.flush())
        self._converter = PcmConverter(self.sample_rate, self._converter.channels)
        length = round(samples * SAMPLE_RATE / self.sample_rate)
        if length:
            self._stream.note(Gap(stream=self.name, start=self._stream.position, length=length, reason="client"))
            if self._recording is not None:
                self._recording.skip(length)

    def new_speaker(self) -> None:
        """Report that another person speaks from here on."""
        self._stream.new_speaker()

    def end(self, error: str | None = None) -> None:
        """End the audio; the last results follow, then StreamEnded."""
        try:
            if error is None:
                self._feed(self._converter.flush())
        finally:
            self._stream.close(error)
            if self._recording is not None:
                self._recording.close()

    def _feed(self, samples: Samples, arrived_s: float | None = None) -> None:
        if len(samples):
            if self._recording is not None:
                self._recording.write(samples)
            self._stream.feed(AudioBlock(samples, self._stream.position, arrived_s))


class AudioFile:
    """An uploaded file, decoded from memory piece by piece: nothing is written to disk."""

    def __init__(self, body: bytes) -> None:
        self._file = open_audio(io.BytesIO(body), "the file")
        self.sample_rate = int(self._file.samplerate)
        self.channels = int(self._file.channels)
        self.duration_s = len(self._file) / self.sample_rate
        """The duration in its header."""
        self._frames = 0

    def pieces(self) -> Iterator[Samples]:
        """Mono audio at the file's own rate, a second at a time."""
        for piece in mono_pieces(self._file, "the file"):
            self._frames += len(piece)
            yield piece

    def cut_off(self) -> str | None:
        """After all pieces: the reason to believe that the file is cut off, or None."""
        return cut_off(self._file, self._frames)
