"""All settings of streamser: defaults of each module, then a YAML file, then `--set section.key=value`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from os import PathLike, fspath
from pathlib import Path
from typing import Any, get_type_hints

from streamser.errors import ConfigError
from streamser.recognizer import RecognizerConfig
from streamser.server.options import ServerConfig
from streamser.settings import Setting, build, checked, construct, nearest, parse_value, parse_yaml, walk_mapping
from streamser.stream.channel import StreamConfig
from streamser.stream.vad import VadConfig

__all__ = ["Config", "load_config", "shipped_config"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(StreamConfig):
    """All sections of config.yaml; each is a dataclass of the module that it configures, with its own checks."""

    vad: VadConfig = field(default_factory=VadConfig)
    recognizer: RecognizerConfig = field(default_factory=RecognizerConfig)
    server: ServerConfig = field(default_factory=ServerConfig)


SECTIONS: dict[str, type[Any]] = get_type_hints(Config)
_RENAMED = {("recognizer", "device"): "compute", ("server", "max_sound_s"): "max_audio_s"}
"""Old keys that still work for one release, with a warning."""
_GONE = {
    ("pipeline", "settle"): "streams adapt to the voice by default now; pipeline.adapt: false turns it off",
}
"""Old keys that no longer work, and what to do instead."""
_FIELDS = {section: [f.name for f in fields(kind)] for section, kind in SECTIONS.items()}


def shipped_config() -> Path:
    """The config.yaml that comes with streamser: every setting, its default, and a line that explains it."""
    package = Path(__file__).parent
    installed = package / "_config.yaml"
    return installed if installed.is_file() else package.parent / "config.yaml"


def load_config(path: str | PathLike[str] | None = None, overrides: Sequence[str] = ()) -> Config:
    """The defaults, changed by a YAML file, changed by "section.key=value" lines.

    >>> load_config(overrides=["vad.mode=3"]).vad.mode
    3
    >>> load_config(overrides=["vad.treshold=0.6"])
    Traceback (most recent call last):
    streamser.errors.ConfigError: --set vad.treshold=0.6: unknown key 'vad.treshold'; did you mean 'vad.threshold'?
    """
    written: dict[str, dict[str, Setting]] = {section: {} for section in SECTIONS}
    settings = [*(() if path is None else _from_file(Path(fspath(path)))), *map(_from_override, overrides)]
    for section, key, setting in settings:
        written[section][key] = setting
    return Config(**{section: _build(section, values) for section, values in written.items()})


def _from_file(path: Path) -> Iterator[tuple[str, str, Setting]]:
    root = parse_yaml(path, f"a complete one is at {shipped_config()}")
    for section, where, node in walk_mapping(root, path, "a configuration"):
        if section not in SECTIONS:
            raise _unknown(where, "", section)
        for key, where, value in walk_mapping(node, path, f"section '{section}'"):
            key = _new_name(where, section, key)
            if key not in _FIELDS[section]:
                raise _unknown(where, section, key)
            yield section, key, Setting(construct(value, where), where)


def _from_override(text: str) -> tuple[str, str, Setting]:
    where = f"--set {text}"
    name, equals, value = text.partition("=")
    section, dot, key = name.strip().partition(".")
    if not equals:
        raise ConfigError(f"{where}: write section.key=value, for example vad.mode=3")
    if not dot:
        raise _unknown(where, "", section)
    if section not in SECTIONS:
        raise _unknown(where, "", section, key)
    key = _new_name(where, section, key)
    if key not in _FIELDS[section]:
        raise _unknown(where, section, key)
    return section, key, Setting(parse_value(value, where), where)


def _new_name(where: str, section: str, key: str) -> str:
    """The key's present name; a renamed key is accepted with a warning, a removed one is a ConfigError."""
    if (section, key) in _GONE:
        raise ConfigError(f"{where}: {section}.{key} was removed: {_GONE[section, key]}")
    new = _RENAMED.get((section, key))
    if new is None:
        return key
    logger.warning("%s: %s.%s is now %s.%s; the next release removes the old name", where, section, key, section, new)
    return new


def _unknown(where: str, section: str, key: str, inner: str = "") -> ConfigError:
    """A ConfigError that suggests the most similar known name."""
    wrong = ".".join(part for part in (section, key, inner) if part)
    kind = "key" if section or inner or any(key in names for names in _FIELDS.values()) else "section"
    right = _nearest(section, key, inner)
    advice = f"did you mean '{right}'?" if right else f"known: {', '.join(_FIELDS.get(section, SECTIONS))}"
    return ConfigError(f"{where}: unknown {kind} '{wrong}'; {advice}")


def _nearest(section: str, key: str, inner: str) -> str | None:
    """The most similar known name: a key of this section, of another one, or a section."""
    if section:
        if near := nearest(key, _FIELDS[section]):
            return f"{section}.{near}"
    elif near := nearest(key, list(SECTIONS)):
        return f"{near}.{inner}" if inner else near
    homes = [home for home, names in _FIELDS.items() if (inner or key) in names]
    if homes:
        return f"{homes[0]}.{inner or key}"
    everywhere = {name: home for home, names in _FIELDS.items() for name in names}
    near = nearest(inner or key, list(everywhere), cutoff=0.75)
    return f"{everywhere[near]}.{near}" if near else None


def _build(section: str, settings: Mapping[str, Setting]) -> Any:
    """One section's dataclass, or a ConfigError that names the line with the wrong value."""
    hints = get_type_hints(SECTIONS[section])
    values = {key: checked(f"{section}.{key}", setting, hints[key]) for key, setting in settings.items()}
    lines = {f"{section}.{key}": setting.where for key, setting in settings.items()}
    return build(SECTIONS[section], values, lambda dotted: lines.get(dotted, section), section)
