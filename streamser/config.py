"""Every setting of streamser, gathered from its owners: defaults, then a YAML file, then `--set section.key=value`."""

from __future__ import annotations

import logging
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import yaml

from streamser.errors import ConfigError
from streamser.recognizer import RecognizerConfig
from streamser.server.options import ServerConfig
from streamser.stream.channel import StreamConfig

__all__ = ["Config", "load_config", "shipped_config"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(StreamConfig):
    """All sections of config.yaml; each belongs to the module that it steers and checks itself."""

    recognizer: RecognizerConfig = field(default_factory=RecognizerConfig)
    server: ServerConfig = field(default_factory=ServerConfig)


class _Setting(NamedTuple):
    """A value that someone wrote, and where, for the error message."""

    value: Any
    where: str


SECTIONS: dict[str, type[Any]] = get_type_hints(Config)
_RENAMED = {("recognizer", "device"): "compute"}
"""Old keys that still work for one release, with a warning."""
_FIELDS = {section: [f.name for f in fields(kind)] for section, kind in SECTIONS.items()}


def shipped_config() -> Path:
    """The config.yaml that comes with streamser: every knob, its default, and a line that explains it."""
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
    written: dict[str, dict[str, _Setting]] = {section: {} for section in SECTIONS}
    settings = [*(() if path is None else _from_file(Path(fspath(path)))), *map(_from_override, overrides)]
    for section, key, setting in settings:
        written[section][key] = setting
    return Config(**{section: _build(section, values) for section, values in written.items()})


def _from_file(path: Path) -> Iterator[tuple[str, str, _Setting]]:
    for section, node in _mapping(_parse(path), path, ""):
        where = f"{path}:{node[0].start_mark.line + 1}"
        if section not in SECTIONS:
            raise _unknown(where, "", section)
        for key, (key_node, value_node) in _mapping(node[1], path, section):
            where = f"{path}:{key_node.start_mark.line + 1}"
            key = _new_name(where, section, key)
            if key not in _FIELDS[section]:
                raise _unknown(where, section, key)
            yield section, key, _Setting(_construct(value_node), where)


def _parse(path: Path) -> yaml.Node | None:
    try:
        return yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); a complete one is at {shipped_config()}"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text; save it as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: is not YAML: {error.problem or error}; write `key: value`") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML: {error}") from error


def _mapping(node: yaml.Node | None, path: Path, name: str) -> Iterator[tuple[str, tuple[yaml.Node, yaml.Node]]]:
    """The keys of a mapping, each once; an empty one has none."""
    if node is None or (isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"):
        return
    if not isinstance(node, yaml.MappingNode):
        what = f"section '{name}'" if name else "a configuration"
        raise ConfigError(f"{path}:{node.start_mark.line + 1}: {what} is a mapping of `key: value` lines")
    seen: dict[str, int] = {}
    for key_node, value_node in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if key in seen:
            raise ConfigError(f"{path}:{line}: key '{key}' was already given in line {seen[key]}; keep one of them")
        seen[key] = line
        yield key, (key_node, value_node)


def _construct(node: yaml.Node) -> Any:
    constructor = yaml.constructor.SafeConstructor()
    return constructor.construct_object(node, deep=True)


def _from_override(text: str) -> tuple[str, str, _Setting]:
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
    try:
        return section, key, _Setting(yaml.safe_load(value), where)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: {value!r} is no YAML value") from error


def _new_name(where: str, section: str, key: str) -> str:
    """The key's present name; an old one is accepted with a warning."""
    new = _RENAMED.get((section, key))
    if new is None:
        return key
    logger.warning(
        "%s: %s.%s is now %s.%s; the old name will go with the next release", where, section, key, section, new
    )
    return new


def _unknown(where: str, section: str, key: str, inner: str = "") -> ConfigError:
    """An error that names the nearest right name."""
    wrong = ".".join(part for part in (section, key, inner) if part)
    kind = "key" if section or inner or any(key in names for names in _FIELDS.values()) else "section"
    right = _nearest(section, key, inner)
    advice = f"did you mean '{right}'?" if right else f"known: {', '.join(_FIELDS.get(section, SECTIONS))}"
    return ConfigError(f"{where}: unknown {kind} '{wrong}'; {advice}")


def _nearest(section: str, key: str, inner: str) -> str | None:
    """The right name for a wrong one: beside it, in another section, or the section itself."""
    if section:
        if near := get_close_matches(key, _FIELDS[section], n=1):
            return f"{section}.{near[0]}"
    elif near := get_close_matches(key, SECTIONS, n=1):
        return f"{near[0]}.{inner}" if inner else near[0]
    homes = [home for home, names in _FIELDS.items() if (inner or key) in names]
    if homes:
        return f"{homes[0]}.{inner or key}"
    everywhere = {name: home for home, names in _FIELDS.items() for name in names}
    near = get_close_matches(inner or key, everywhere, n=1, cutoff=0.75)
    return f"{everywhere[near[0]]}.{near[0]}" if near else None


def _build(section: str, settings: Mapping[str, _Setting]) -> Any:
    """One section's dataclass, or a ConfigError at the line that is to blame."""
    hints = get_type_hints(SECTIONS[section])
    values = {key: _checked(f"{section}.{key}", setting, hints[key]) for key, setting in settings.items()}
    try:
        return SECTIONS[section](**values)
    except ValueError as error:
        key = str(error).partition(":")[0]
        blamed = settings.get(key) or next(iter(settings.values()), None)
        raise ConfigError(f"{blamed.where if blamed else section}: {section}.{error}") from error


def _checked(name: str, setting: _Setting, kind: Any) -> Any:
    """The value as the field's type, or a ConfigError that says what the type is."""
    value = _fit(setting.value, kind)
    if value is not _UNFIT:
        return value
    near = get_close_matches(str(setting.value), _choices(kind), n=1)
    advice = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"{setting.where}: {name}: is {_rule(kind)}, not {setting.value!r}{advice}")


_UNFIT = object()


def _fit(value: Any, kind: Any) -> Any:
    """The value as that type, or _UNFIT."""
    if get_origin(kind) in (Union, types.UnionType):
        # `device: 3` is an index though a text would do as well: a type that needs no conversion comes first.
        kinds = sorted(get_args(kind), key=lambda one: type(value) is not one)
        return next((fit for fit in (_fit(value, one) for one in kinds) if fit is not _UNFIT), _UNFIT)
    if get_origin(kind) is Literal:
        return value if value in get_args(kind) else _UNFIT
    if get_origin(kind) is tuple:
        fits = tuple(_fit(one, get_args(kind)[0]) for one in value) if isinstance(value, list) else (_UNFIT,)
        return _UNFIT if _UNFIT in fits else fits
    if kind is type(None):
        return None if value is None else _UNFIT
    if kind in (bool, str):
        return value if isinstance(value, kind) else _UNFIT
    return _fit_number(value, kind)


def _fit_number(value: Any, kind: Any) -> Any:
    if kind is float and isinstance(value, str):  # YAML 1.1 takes 1e-3 for a word
        try:
            return float(value)
        except ValueError:
            return _UNFIT
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _UNFIT
    if kind is float:
        return float(value)
    return int(value) if float(value).is_integer() else _UNFIT


def _rule(kind: Any) -> str:
    """A type in words."""
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_rule(one) for one in get_args(kind))
    if get_origin(kind) is Literal:
        return f"one of {', '.join(_choices(kind))}"
    if get_origin(kind) is tuple:
        return f"a list, as [a, b], each {_rule(get_args(kind)[0])}"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}.get(kind, "null")


def _choices(kind: Any) -> list[str]:
    return [str(choice) for choice in get_args(kind)] if get_origin(kind) is Literal else []
