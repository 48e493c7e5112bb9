"""The errors that streamser raises for faults outside the code: a device, a file, a checkpoint, a setting.

    StreamserError
    ├── AudioError          a file or an array that is not usable audio
    ├── DeviceError         a microphone, or PortAudio itself, that is not available
    ├── BundleError         a checkpoint that is damaged, altered, foreign or too new
    ├── EngineError         a processor that was requested by name and is not available
    ├── ConfigError         a setting that is unknown or impossible
    ├── MissingExtraError   a command that needs an extra which is not installed
    ├── CorpusError         an invalid corpus folder or manifest
    ├── ProtocolError       a split that would leak speakers or clips
    └── ServerError         a streamser server that cannot be reached, or that refused

Each message names the value, the rule and what to do. A caller's mistake (a wrong type, an array of the wrong rank) is
a plain ValueError.
"""


class StreamserError(Exception):
    """Base of every error below; catch this one to catch them all."""


class AudioError(StreamserError):
    """A file or an array that is not usable audio."""


class DeviceError(StreamserError):
    """A microphone, or PortAudio itself, that is not available."""


class BundleError(StreamserError):
    """A checkpoint that is damaged, altered, foreign or too new."""


class EngineError(StreamserError):
    """A processor was requested by name and is not available, or the network failed on it."""


class ConfigError(StreamserError):
    """A setting that is unknown or impossible."""


class CorpusError(StreamserError):
    """An invalid corpus folder or manifest."""


class ProtocolError(StreamserError):
    """A split that would leak speakers or clips from one part into another."""


class MissingExtraError(StreamserError):
    """A command that needs an extra which is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the extra '{extra}': pip install 'streamser[{extra}]'")
        self.extra = extra


class ServerError(StreamserError):
    """A streamser server that cannot be reached, or that refused."""

    def __init__(self, message: str, *, code: str = "", status: int = 0) -> None:
        super().__init__(message)
        self.code = code
        """The protocol's code for the refusal, or empty."""
        self.status = status
        """HTTP status or the WebSocket's close code; 0 when no response arrived."""


def explain(error: BaseException) -> str:
    """An error in one line: a StreamserError's own text, or the type and text of another error."""
    return str(error) if isinstance(error, StreamserError) else f"{type(error).__name__}: {error}"
