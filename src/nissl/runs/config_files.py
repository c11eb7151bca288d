"""The YAML files of `conf/`, with the line of every key.

Read as OmegaConf reads them, but by libyaml, and with errors that name file and line.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.plugins.config_source import ConfigSource
from omegaconf._utils import get_yaml_loader

from nissl.runs.problems import ConfigError, Problem, shown


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """OmegaConf's reading of scalars (1e-4 is a number, a date is text) on libyaml, about ten times as fast."""

    yaml_implicit_resolvers = get_yaml_loader().yaml_implicit_resolvers


@dataclass
class ConfigFile:
    """A parsed YAML file of `conf/`.

    Attributes:
        name: path below `conf/` without suffix, as Hydra calls it (`model/ffn`).
        values: content without the defaults list.
        defaults: the raw defaults list.
        lines: dotted key -> line (from 1).
        header: Hydra's header, `{"package": ...}`.
    """

    name: str
    path: Path
    values: dict[str, Any]
    defaults: list[Any]
    lines: dict[str, int]
    header: dict[str, str | None]

    def where(self, key: str = "") -> str:
        """`conf/model/ffn.yaml:4`, by the nearest key above that has a line."""
        while key and key not in self.lines:
            key = key.rpartition(".")[0]
        return f"{shown(self.path)}:{self.lines.get(key, 1)}"


def parse_file(name: str, path: Path) -> ConfigFile:
    """Read one file.

    Raises:
        ConfigError: if it is not valid YAML, writes a key twice, or is no mapping.
    """
    text = path.read_text()
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        values = loader.construct_document(node) if node is not None else {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{shown(path)}:{mark.line + 1}" if mark else shown(path)
        raise ConfigError([Problem(where, f"not valid YAML: {getattr(error, 'problem', None) or error}")]) from error
    if not isinstance(values, dict):
        raise ConfigError([Problem(f"{shown(path)}:1", f"expected keys with values, came {type(values).__name__}")])
    lines: dict[str, int] = {}
    repeated: list[Problem] = []
    if node is not None:
        _collect_lines(node, "", lines, repeated, path)
    if repeated:
        raise ConfigError(repeated)
    defaults = values.pop("defaults", [])
    return ConfigFile(name, path, values, defaults, lines, ConfigSource._get_header_dict(text))


def _collect_lines(node: yaml.Node, prefix: str, lines: dict[str, int], repeated: list[Problem], path: Path) -> None:
    if isinstance(node, yaml.SequenceNode) and prefix == "defaults":
        for item in node.value:
            if isinstance(item, yaml.MappingNode):
                key_node = item.value[0][0]
                lines[f"defaults.{str(key_node.value).split()[-1].lstrip('/')}"] = key_node.start_mark.line + 1
    if not isinstance(node, yaml.MappingNode):
        return
    for key_node, value_node in node.value:
        key = join(prefix, str(key_node.value))
        line = key_node.start_mark.line + 1
        if key in lines:
            repeated.append(Problem(f"{shown(path)}:{line}", f"'{key}' is written twice, first in line {lines[key]}"))
        lines[key] = line
        _collect_lines(value_node, key, lines, repeated, path)


def join(prefix: str, key: str) -> str:
    """`model` and `depth` as `model.depth`; no dot without a prefix."""
    return f"{prefix}.{key}" if prefix else key
