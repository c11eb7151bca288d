"""Which file or override set each value of a composed configuration.

Hydra says what a configuration is, not where it came from. Here the same defaults list, from Hydra itself, is merged
over the YAML files with their line numbers, so that an error can name file and line and `nissl explain` can show every
setter of a key. As a side effect it is about five times as fast as a full composition, because Hydra's own forty
configuration files are left out; a test compares both for every experiment.

This is the only module that knows Hydra's internals (`hydra._internal`); the bound on Hydra's version covers it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra._internal.config_repository import ConfigRepository
from hydra._internal.defaults_list import create_defaults_list
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from hydra.version import setbase
from omegaconf import OmegaConf

from nissl.runs.config_files import ConfigFile, join, parse_file
from nissl.runs.problems import ConfigError, Problem, nearest, shown

COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Origin:
    """One setting of a key: where it was written, and the value (None for a mapping)."""

    where: str
    value: Any


@dataclass
class Composed:
    """A composed configuration with its history.

    Attributes:
        values: plain values, interpolations as written, `???` where missing.
        origins: dotted key -> its settings, oldest first; the last one holds.
        files: names of the files merged, in order.
        unchosen: groups of which an option must be named and is not.
    """

    values: dict[str, Any]
    origins: dict[str, list[Origin]] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    unchosen: list[str] = field(default_factory=list)

    def where(self, key: str) -> str:
        """Where the value of a key was last set; of a key that nobody set, where its parent was."""
        while key and key not in self.origins:
            key = key.rpartition(".")[0]
        return self.origins[key][-1].where if key else "configuration"


class ConfigTree:
    """The folder `conf/`: its groups, its files with their lines, and compositions of them."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ValueError(f"no configuration folder {folder}")
        self.folder = folder.resolve()
        self._files: dict[str, ConfigFile] = {}
        self._chosen: dict[tuple[str, ...], Composed] = {}
        self._repository = _Repository(self)

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """Group -> its options, sorted. Sweeps are no group: `nissl sweep` reads them, train.py does not."""
        return {
            path.name: sorted(file.stem for file in path.glob("*.yaml"))
            for path in sorted(self.folder.iterdir())
            if path.is_dir() and path.name != "sweep" and any(path.glob("*.yaml"))
        }

    @cached_property
    def names(self) -> list[str]:
        """Every configuration of the folder, as Hydra names it."""
        return sorted(str(path.relative_to(self.folder).with_suffix("")) for path in self.folder.rglob("*.yaml"))

    def file(self, name: str) -> ConfigFile:
        """One parsed file.

        Raises:
            ConfigError: if it is not valid YAML, or not a mapping.
        """
        name = name.removesuffix(".yaml")
        if name not in self._files:
            self._files[name] = parse_file(name, self.folder / f"{name}.yaml")
        return self._files[name]

    def writers(self, path: str) -> Iterator[tuple[ConfigFile, str]]:
        """Files that declare keys below a dotted path of the composed config, with the path inside the file.

        Experiments do not declare: they choose among what roots and groups offer.
        """
        for name in self.names:
            group = name.rpartition("/")[0]
            if group in ("experiment", "sweep"):
                continue
            if not group:
                yield self.file(name), path
            elif path == group or path.startswith(group + "."):
                yield self.file(name), path[len(group) + 1 :]

    def compose(self, root: str, overrides: list[Override]) -> Composed:
        """Merge the files of a defaults list and the overrides.

        The files that the same choices of options lead to are merged once; a search asks for them hundreds of times.

        Args:
            root: name of the root file, `train`.
            overrides: parsed; groups and options must exist (`check_choices`), sweeps must be expanded.

        Raises:
            ConfigError: if a defaults list is wrong or Hydra refuses to compose.
        """
        choices: list[Override] = []
        values: list[Override] = []
        for override in overrides:
            if override.is_hydra_override() or override.is_sweep_override():
                continue
            is_choice = override.key_or_group in self.groups and not isinstance(override.value(), dict)
            (choices if is_choice else values).append(override)
        key = (root, *(str(override.input_line) for override in choices))
        if key not in self._chosen:
            self._chosen[key] = self._merged(root, choices)
        chosen = self._chosen[key]
        origins = {name: list(history) for name, history in chosen.origins.items()}
        composed = Composed(_copied(chosen.values), origins, list(chosen.files), list(chosen.unchosen))
        for override in values:
            _apply(composed, override)
        return composed

    def _merged(self, root: str, choices: list[Override]) -> Composed:
        setbase("1.3")  # Hydra asks for the version whose rules apply; train.py says the same
        try:
            defaults = create_defaults_list(
                repo=self._repository,
                config_name=root,
                overrides_list=choices,
                prepend_hydra=False,
                skip_missing=True,
            )
        except HydraException as error:
            raise ConfigError([Problem(shown(self.folder / f"{root}.yaml"), _sentence(error))]) from error
        composed = Composed({})
        composed.unchosen = [group for group, option in defaults.overrides.known_choices.items() if option == "???"]
        for default in defaults.defaults:
            if default.config_path is None or default.config_path.startswith("hydra"):
                continue
            file = self.file(default.config_path)
            composed.files.append(file.name)
            package = default.package or ""
            target, history = _descend(composed, package, file)
            for key, value in file.values.items():
                if package or key != "hydra":
                    _merge(target, key, value, join(package, key), key, file, history)
        return composed


class _Repository(ConfigRepository):
    """Hydra's view of the tree, served from the files already parsed."""

    def __init__(self, tree: ConfigTree) -> None:
        self._tree = tree
        self._results: dict[str, ConfigResult | None] = {}

    def group_exists(self, config_path: str) -> bool:
        return config_path in self._tree.groups

    def config_exists(self, config_path: str) -> bool:
        return self.load_config(config_path) is not None

    def get_group_options(self, group_name: str, results_filter: ObjectType | None = None) -> list[str]:
        return self._tree.groups.get(group_name, [])

    def load_config(self, config_path: str) -> ConfigResult | None:
        if config_path not in self._results:
            self._results[config_path] = self._read(config_path)
        return self._results[config_path]

    def _read(self, name: str) -> ConfigResult | None:
        if not (self._tree.folder / f"{name.removesuffix('.yaml')}.yaml").exists():
            return None
        file = self._tree.file(name)
        problems = list(wrong_defaults(self._tree, file))
        if problems:
            raise ConfigError(problems)
        # Choices of Hydra's own groups (its logging) are not part of our configuration.
        kept = [item for item in file.defaults if not (isinstance(item, dict) and "hydra/" in next(iter(item)))]
        return ConfigResult(
            provider="main",
            path=name,
            config=OmegaConf.create({"content": True} if file.values else {}),
            header=dict(file.header),
            defaults_list=self._create_defaults_list(name, OmegaConf.create(kept)),
        )


def wrong_defaults(tree: ConfigTree, file: ConfigFile) -> Iterator[Problem]:
    """Groups and options that a file's defaults list names and the tree does not have."""
    own_group = file.name.rpartition("/")[0]
    for item in file.defaults:
        if isinstance(item, str):
            option = item.partition("@")[0]
            if option == "_self_" or option.startswith("/"):
                continue
            known = tree.groups.get(own_group, []) if own_group else tree.names
            if option not in known:
                yield Problem(file.where("defaults"), f"no configuration '{option}'", _hint(option, known))
        elif isinstance(item, dict) and len(item) == 1:
            ((key, value),) = item.items()
            group = str(key).split()[-1].partition("@")[0].lstrip("/")
            if group.startswith("hydra/"):
                continue
            if group not in tree.groups and not (tree.folder / group).is_dir():
                yield Problem(file.where(f"defaults.{group}"), f"no group '{group}'", _hint(group, tree.groups))
                continue
            for option in value if isinstance(value, list) else [value]:
                if option not in (None, "???") and option not in tree.groups.get(group, []):
                    known = tree.groups.get(group, [])
                    yield Problem(
                        file.where(f"defaults.{group}"), f"'{group}' has no option '{option}'", _hint(option, known)
                    )


def _hint(name: str, known: Any) -> str:
    close = nearest(name, known)
    return f"Did you mean '{close}'?" if close else f"There are: {', '.join(known) or 'none'}."


def parse_overrides(texts: list[str]) -> list[Override]:
    """Overrides as Hydra reads them.

    Raises:
        ConfigError: naming each that is no override.
    """
    parser, overrides, problems = OverridesParser.create(), [], []
    for text in texts:
        try:
            overrides.append(parser.parse_override(text))
        except HydraException as error:
            hint = "Write key=value; quote a value with spaces or commas: \"key='a b'\"."
            problems.append(Problem(text, _sentence(error), hint))
    if problems:
        raise ConfigError(problems)
    return overrides


def _descend(composed: Composed, package: str, file: ConfigFile) -> tuple[dict[str, Any], dict[str, list[Origin]]]:
    """The mapping at a package, made where it is missing."""
    target, key = composed.values, ""
    for part in package.split(".") if package else []:
        key = join(key, part)
        if not isinstance(target.get(part), dict):
            target[part] = {}
        composed.origins.setdefault(key, []).append(Origin(file.where(), None))
        target = target[part]
    return target, composed.origins


def _merge(
    target: dict[str, Any],
    key: str,
    value: Any,
    dotted: str,
    key_in_file: str,
    file: ConfigFile,
    history: dict[str, list[Origin]],
) -> None:
    """Set a key as OmegaConf merges: mappings merge, everything else replaces, `???` gives way to a value."""
    history.setdefault(dotted, []).append(Origin(file.where(key_in_file), None if isinstance(value, dict) else value))
    if isinstance(value, dict):
        if not isinstance(target.get(key), dict):
            target[key] = {}
        for child, child_value in value.items():
            child = str(child)
            child_in_file = f"{key_in_file}.{child}"
            _merge(target[key], child, child_value, f"{dotted}.{child}", child_in_file, file, history)
    elif value != "???" or target.get(key) is None:
        target[key] = value


def _apply(composed: Composed, override: Override) -> None:
    parts = override.key_or_group.split(".")
    target: Any = composed.values
    for index, part in enumerate(parts[:-1]):
        if not isinstance(target.get(part), dict):
            target[part] = {}
            composed.origins.setdefault(".".join(parts[: index + 1]), []).append(Origin(COMMAND_LINE, None))
        target = target[part]
    if override.is_delete():
        target.pop(parts[-1], None)
        return
    value = override.value()
    origin = Origin(f"{COMMAND_LINE}, {override.input_line}", value)
    composed.origins.setdefault(override.key_or_group, []).append(origin)
    if isinstance(value, dict) and isinstance(target.get(parts[-1]), dict):
        target[parts[-1]] = {**target[parts[-1]], **value}
    else:
        target[parts[-1]] = value


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def select(values: Any, dotted: str) -> Any:
    """The value at a dotted key; the keys on the way may hold dots themselves (a day "POD3.5").

    Raises:
        KeyError: if there is none.
    """
    if isinstance(values, dict):
        if dotted in values:
            return values[dotted]
        for end in (place for place, letter in enumerate(dotted) if letter == "."):
            if dotted[:end] in values:
                with contextlib.suppress(KeyError):
                    return select(values[dotted[:end]], dotted[end + 1 :])
    raise KeyError(dotted)


def all_keys(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Every dotted key, branches before their leaves."""
    for key, value in values.items():
        dotted = join(prefix, str(key))
        yield dotted
        if isinstance(value, dict):
            yield from all_keys(value, dotted)


def changed_keys(composed: Composed) -> list[dict[str, str]]:
    """Values that an experiment or the command line set differently from the file that declares them."""
    rows = []
    for key, origins in composed.origins.items():
        first, last = origins[0], origins[-1]
        if first.where == last.where or isinstance(last.value, dict) or str(first.value) == str(last.value):
            continue
        default = "" if isinstance(first.value, dict) else _shown_value(first.value)
        rows.append({"key": key, "default": default, "value": _shown_value(last.value), "where": last.where})
    return rows


def _shown_value(value: Any) -> str:
    return "null" if value is None else str(value)


def explain(composed: Composed, key: str) -> list[str]:
    """Lines that say who set a key, oldest first; of a section, who set each value in it.

    Raises:
        ConfigError: if there is no such key.
    """
    try:
        value = select(composed.values, key)
    except KeyError:
        keys = list(all_keys(composed.values))
        close = nearest(key, keys) or nearest(key.rpartition(".")[2], {name.rpartition(".")[2] for name in keys}, 0.8)
        full = next((name for name in keys if name == close or name.rpartition(".")[2] == close), None)
        hint = f"Did you mean '{full}' ({composed.where(full)})?" if full else ""
        raise ConfigError([Problem(key, "there is no such key in this configuration", hint)]) from None
    if isinstance(value, dict):
        leaves = [f"{key}.{name}" for name in all_keys(value) if not isinstance(select(value, name), dict)]
        return [f"{leaf} = {select(composed.values, leaf)}    {composed.where(leaf)}" for leaf in leaves]
    config = OmegaConf.create(composed.values)
    lines = [f"{key} = {value}"]
    if isinstance(value, str) and "${" in value:
        lines[0] = f"{key} = {OmegaConf.select(config, key)}    from {value}"
    history = composed.origins[key]
    for origin in history:
        lines.append(f"  {'->' if origin is history[-1] else '  '} {origin.where}: {origin.value}")
    return lines


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())
