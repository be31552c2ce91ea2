"""The file of settings (``--config job.yaml``), read within bounds."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from nstray.config import JobConfig, make
from nstray.errors import ConfigError

MAX_BYTES = 2**20  # of the file, and of its text once every alias is written out
_MERGE = "tag:yaml.org,2002:merge"
_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"


class _Loader(yaml.SafeLoader):
    """YAML without objects, whose mappings name a key once."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: dict[Any, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                # The keys of settings may be written with dashes.
                name, line = key.value.replace("-", "_"), key.start_mark.line + 1
                if name in seen:
                    raise _Problem(
                        f"{key.value} is set twice, in line {seen[name]} and in line {line}; "
                        "keep one of them"
                    )
                seen[name] = line
        return super().construct_mapping(node, deep)

    def number(self, node: yaml.ScalarNode) -> Any:
        """A number; YAML 1.1 would read 128:50 as one of base 60, and 016 as 14."""
        line, text = node.start_mark.line + 1, node.value[:40]
        if ":" in text:
            raise _Problem(
                f"line {line}: {text} without quotes is a number of base 60 in YAML; "
                f"put it in quotes: '{text}'"
            )
        if re.fullmatch(r"[-+]?0[0-9_]+", text):
            raise _Problem(
                f"line {line}: {text} is an octal number in YAML; write it without the 0 in front"
            )
        whole = node.tag == _INT
        return self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)


for _tag in (_INT, _FLOAT):
    _Loader.add_constructor(_tag, _Loader.number)


class _Problem(Exception):
    """What is wrong with the file, for people."""


def load(path: str | None, overrides: Iterable[tuple[str, Any]] = ()) -> JobConfig:
    """The settings of a YAML file, or the defaults. `overrides` take precedence.

    Raises `ConfigError`, which names the file if it is at fault.
    """
    given = dict(overrides)
    values = read(path) if path is not None else {}
    try:
        return make({**values, **given})
    except ConfigError as error:
        if values:
            make(given)  # raises if the options alone are at fault
            raise ConfigError(f"--config {path}: {error}") from None
        raise


def read(path: str) -> dict[str, Any]:
    """The settings in a YAML file by name, unchecked.

    Raises `ConfigError` that names the file. A message holds no line of the file, which may hold a
    secret.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise _Problem(f"more than {MAX_BYTES:,} bytes; is it a file of settings?")
        values = _parse(data.decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}") from None
    except _Problem as error:
        raise ConfigError(f"--config {path}: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"--config {path} is not YAML: {_yaml_problem(error)}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"--config {path} is not YAML: {error.reason} at byte {error.start}"
        ) from None
    except (RecursionError, ValueError) as error:  # a date of month 13
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ConfigError(f"--config {path} is not YAML: {reason}") from None
    if values is not None and not isinstance(values, dict):
        raise ConfigError(
            f"--config {path}: expected lines of 'name: value', got {type(values).__name__}"
        )
    return {str(name).replace("-", "_"): value for name, value in (values or {}).items()}


def _parse(text: str) -> Any:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _written_out(node, {}) > MAX_BYTES:
            raise _Problem(
                "its aliases (*name) stand for more than a mebibyte of text; write values out"
            )
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _written_out(node: yaml.Node, known: dict[int, int]) -> int:
    """The characters of a node with every alias in it written out; too many for one in itself."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = MAX_BYTES + 1  # until it is known: of a node that holds itself
    if isinstance(node, yaml.MappingNode):
        size = sum(_written_out(part, known) for pair in node.value for part in pair)
    elif isinstance(node, yaml.SequenceNode):
        size = sum(_written_out(part, known) for part in node.value)
    else:
        size = len(node.value)
    known[id(node)] = size + 1
    return size + 1


def _yaml_problem(error: yaml.YAMLError) -> str:
    """What is wrong and where, without the file's lines, which may hold a secret."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return str(getattr(error, "reason", "")) or type(error).__name__
    mark = error.problem_mark
    return f"{error.problem} in line {mark.line + 1}, column {mark.column + 1}"
