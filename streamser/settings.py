"""Check settings: read YAML safely, convert values to their types, and suggest the most similar known key.

config.yaml and training recipes are both checked here, so an error in either names the file, the line, the rule and
what to do.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from streamser.errors import ConfigError

__all__ = [
    "SAFE_LOADER",
    "Setting",
    "build",
    "check_choice",
    "check_keys",
    "checked",
    "construct",
    "fill",
    "nearest",
    "parse_value",
    "parse_yaml",
    "read_mapping",
    "require",
    "walk_mapping",
]

T = TypeVar("T")

SAFE_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The loader of plain values: libyaml's if PyYAML was built with it, which takes a tenth of the time."""

Where = Callable[[str], str]
"""Dotted key -> its place, as "recipe.yaml:12"."""

# A file of settings is small. These limits keep a hostile file from filling the memory or the stack.
_MOST_BYTES = 1_000_000
_MOST_DEPTH = 20
_MOST_DIGITS = 100


class Setting(NamedTuple):
    """A value and its place, for the error message."""

    value: Any
    where: str


def require(rules: Mapping[str, bool]) -> None:
    """ValueError with the first rule that does not hold; a rule's text begins with the name of its setting.

    >>> require({"threshold: must be 0 to 1": 0 <= 0.3 <= 1})
    """
    for rule, held in rules.items():
        if not held:
            raise ValueError(rule)


# ---- YAML


def parse_yaml(path: Path, missing: str) -> yaml.Node | None:
    """Parse a YAML file into nodes that know their lines; `missing` is advice for a file that does not exist."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ConfigError(f"{path}: is larger than {_MOST_BYTES // 1_000_000} MB; settings are a few kB of YAML")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); {missing}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text; save it as UTF-8") from error
    return _compose(text, str(path))


def parse_value(text: str, where: str) -> Any:
    """Parse the value of an override, the text after `--set vad.mode=`."""
    try:
        node = _compose(text, where)
    except ConfigError as error:
        raise ConfigError(f"{where}: {text!r} is no YAML value") from error
    return None if node is None else construct(node, where)


def _compose(text: str, where: str) -> yaml.Node | None:
    try:
        depth = 0
        for event in yaml.parse(text, Loader=SAFE_LOADER):
            if isinstance(event, yaml.AliasEvent):
                raise ConfigError(
                    f"{where}{_line(event.start_mark)}: aliases (*name) are not supported; write the value out"
                )
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MOST_DEPTH:
                raise ConfigError(
                    f"{where}{_line(event.start_mark)}: is nested more than {_MOST_DEPTH} deep; two levels are enough"
                )
        return yaml.compose(text, Loader=SAFE_LOADER)
    except yaml.MarkedYAMLError as error:
        problem = f"is not YAML: {error.problem or error}; write `key: value`"
        raise ConfigError(f"{where}{_line(error.problem_mark)}: {problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a %YAML version of 5,000 digits
        raise ConfigError(f"{where}: is not YAML: {error}") from error


def _line(mark: Any) -> str:
    return "" if mark is None else f":{mark.line + 1}"


def walk_mapping(node: yaml.Node | None, path: Path | str, what: str) -> Iterator[tuple[str, str, yaml.Node]]:
    """Yield the keys of a mapping, each once, as (key, where, value node); nothing for an empty node.

    `what` names the mapping in the error, as "section 'vad'".
    """
    if node is None or (isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"):
        return
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}:{node.start_mark.line + 1}: {what} must be a mapping of `key: value` lines")
    seen: dict[str, int] = {}
    for key_node, value_node in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if key in seen:
            raise ConfigError(f"{path}:{line}: key '{key}' was already given in line {seen[key]}; keep one of them")
        seen[key] = line
        yield key, f"{path}:{line}", value_node


def construct(node: yaml.Node, where: str) -> Any:
    """Turn a node into plain values, or raise a ConfigError for a tag or a number that YAML cannot read."""
    for scalar in _scalars(node):
        if scalar.tag.endswith((":int", ":float")) and len(scalar.value) > _MOST_DIGITS:
            raise ConfigError(f"{where}: a number of {len(scalar.value)} digits is too long")
    try:
        return yaml.constructor.SafeConstructor().construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, KeyError, IndexError) as error:
        problem = getattr(error, "problem", None) or error
        raise ConfigError(f"{where}: cannot be read as a YAML value ({problem}); quote it if it is text") from error


def _scalars(node: yaml.Node) -> Iterator[yaml.ScalarNode]:
    if isinstance(node, yaml.ScalarNode):
        yield node
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _scalars(item)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _scalars(key)
            yield from _scalars(value)


def read_mapping(path: Path, what: str, missing: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Read a YAML file of nested mappings: the plain values, and where each dotted key was written."""
    lines: dict[str, str] = {}

    def plain(node: yaml.Node | None, name: str) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, where, value in walk_mapping(node, path, f"'{name}'" if name else what):
            dotted = f"{name}.{key}" if name else key
            lines[dotted] = where
            values[key] = plain(value, dotted) if isinstance(value, yaml.MappingNode) else construct(value, where)
        return values

    return plain(parse_yaml(path, missing), ""), lines


# ---- from plain values to dataclasses


def fill(kind: type[T], values: Mapping[str, Any], where: Where, name: str = "") -> T:
    """Make a dataclass from plain values, nested dataclasses included; `name` is the dotted name of the whole."""
    hints = check_keys(kind, values, where, name)
    filled: dict[str, Any] = {}
    for key, value in values.items():
        dotted = _dotted(name, key)
        inner = _dataclass_of(hints[key])
        if inner is not None and isinstance(value, Mapping):
            filled[key] = fill(inner, value, where, dotted)
        else:
            filled[key] = checked(dotted, Setting(value, where(dotted)), hints[key])
    needed = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]  # type: ignore[arg-type]
    if missing := [_dotted(name, key) for key in needed if key not in filled]:
        raise ConfigError(f"{where(name)}: {', '.join(missing)} is missing; add it")
    return build(kind, filled, where, name)


def build(kind: type[T], values: Mapping[str, Any], where: Where, name: str = "") -> T:
    """Call the dataclass; an error of its `__post_init__` becomes a ConfigError with the line of that value.

    The rule begins with the name of a field and a colon: "mode: must be 0, 1, 2 or 3, not 9".
    """
    try:
        return kind(**values)
    except ValueError as error:
        key = str(error).partition(":")[0]
        blamed = key if key in values else next(iter(values), "")
        raise ConfigError(f"{where(_dotted(name, blamed))}: {name}{'.' if name else ''}{error}") from error


def check_keys(kind: type[Any], values: Mapping[str, Any], where: Where, name: str = "") -> dict[str, Any]:
    """Raise a ConfigError for a key that the dataclass does not have; return the types of its fields."""
    known = [f.name for f in fields(kind)]
    for key in values:
        if key not in known:
            right = nearest(str(key), known)
            advice = f"did you mean '{_dotted(name, right)}'?" if right else f"known: {', '.join(known)}"
            raise ConfigError(f"{where(_dotted(name, key))}: unknown key '{_dotted(name, key)}'; {advice}")
    return get_type_hints(kind)


def checked(name: str, setting: Setting, kind: Any) -> Any:
    """Convert a value to the field's type, or raise a ConfigError that names the type."""
    value = _fit(setting.value, kind)
    if value is not _UNFIT:
        return value
    right = nearest(str(setting.value), _choices(kind))
    advice = f"; did you mean {right!r}?" if right else ""
    raise ConfigError(f"{setting.where}: {name}: must be {_rule(kind)}, not {_shown(setting.value)}{advice}")


def check_choice(name: str, value: str, known: Iterable[str]) -> None:
    """Raise a ValueError unless the value is one of the known names."""
    names = list(known)
    if value not in names:
        right = nearest(value, names)
        advice = f"; did you mean {right!r}?" if right else ""
        raise ValueError(f"{name}: must be one of {', '.join(names)}, not {value!r}{advice}")


def _shown(value: object) -> str:
    """The value for an error message, shortened if it is long."""
    try:
        text = repr(value)
    except ValueError:  # an integer with thousands of digits
        return f"a {type(value).__name__} too long to print"
    return text if len(text) <= 100 else f"{text[:97]}..."


def nearest(name: str, known: Sequence[str], cutoff: float = 0.6) -> str | None:
    """The known name that is most similar to a wrong one, if any is similar."""
    from difflib import get_close_matches  # slow to import, and only for error messages

    return next(iter(get_close_matches(name, known, n=1, cutoff=cutoff)), None)


def _dotted(name: str, key: str) -> str:
    return ".".join(part for part in (name, str(key)) if part)


def _dataclass_of(kind: Any) -> type[Any] | None:
    """The dataclass of a field, also if the field may be None."""
    for one in get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,):
        if isinstance(one, type) and is_dataclass(one):
            return one
    return None


_UNFIT = object()


def _fit(value: Any, kind: Any) -> Any:
    """The value as that type, or _UNFIT."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any or (isinstance(kind, type) and is_dataclass(kind) and isinstance(value, kind)):
        return value
    if origin in (Union, types.UnionType):
        # `device: 3` is an index, although the field also takes text: a type that needs no conversion is tried first.
        kinds = sorted(inner, key=lambda one: type(value) is not one)
        return next((fit for fit in (_fit(value, one) for one in kinds) if fit is not _UNFIT), _UNFIT)
    if origin is Literal:
        return value if value in inner and type(value) in {type(choice) for choice in inner} else _UNFIT
    if origin is tuple:
        return _fit_tuple(value, inner)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            return _UNFIT
        items = {key: _fit(one, inner[1]) for key, one in value.items()}
        return _UNFIT if any(not isinstance(key, str) or one is _UNFIT for key, one in items.items()) else items
    if kind is type(None):
        return None if value is None else _UNFIT
    if kind in (bool, str):
        return value if isinstance(value, kind) else _UNFIT
    return _fit_number(value, kind) if kind in (int, float) else _UNFIT


def _fit_tuple(value: Any, inner: tuple[Any, ...]) -> Any:
    if not isinstance(value, list | tuple):
        return _UNFIT
    if inner[-1] is not Ellipsis and len(value) != len(inner):
        return _UNFIT
    kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else list(inner)
    fits = tuple(_fit(one, kind) for one, kind in zip(value, kinds, strict=True))
    return _UNFIT if any(one is _UNFIT for one in fits) else fits


def _fit_number(value: Any, kind: Any) -> Any:
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 1e-3 as a string
        try:
            return float(value)
        except ValueError:
            return _UNFIT
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _UNFIT
    try:
        if kind is float:
            return float(value)
        return int(value) if float(value).is_integer() else _UNFIT
    except OverflowError:
        return _UNFIT


def _rule(kind: Any) -> str:
    """Describe a type in words."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(_rule(one) for one in inner)
    if origin is Literal:
        return f"one of {', '.join(_choices(kind))}"
    if origin is tuple and inner[-1] is Ellipsis:
        return f"a list such as [a, b], each {_rule(inner[0])}"
    if origin is tuple:
        return f"a list of {len(inner)}, each {_rule(inner[0])}"
    if (isinstance(origin, type) and issubclass(origin, Mapping)) or _dataclass_of(kind):
        return "a mapping of `key: value`"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}.get(kind, "null")


def _choices(kind: Any) -> list[str]:
    return [str(choice) or "''" for choice in get_args(kind)] if get_origin(kind) is Literal else []
