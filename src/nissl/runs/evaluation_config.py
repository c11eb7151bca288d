"""The configuration of evaluate.py: a run's own, with only what the command line names replaced."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from nissl.runs.compose import compose_config, conf_dir, read_config
from nissl.runs.migration import migrated, relocated, renamings, say_migration
from nissl.runs.origins import ConfigTree, parse_overrides, select

# Where the evaluation goes and who watches is decided anew; what is measured is the run's.
_DECIDED_ANEW = ("run_dir", "run_id", "group", "runs_dir", "data_root", "logger", "trainer")
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")  # to another key; resolvers have a colon


def compose_evaluation(overrides: list[str]) -> DictConfig:
    """The configuration of evaluate.py, not resolved.

    With `run=<folder>` the run's own configuration is taken and only what the overrides name is replaced: a group
    (`evaluator=[knn]`, `dataset=...`) is composed afresh, a value (`dataset.test_path=...`) is set. A configuration
    written by an older nissl is completed, and data that moved with NISSL_DATA are found; both are said.

    Raises:
        ValueError: if the run cannot be read or an override names a key that its configuration does not have.
    """
    folder = next((text.split("=", 1)[1] for text in overrides if text.startswith("run=")), None)
    if folder in (None, "null"):
        return compose_config("evaluate", overrides)
    tree = ConfigTree(conf_dir())
    groups: list[Override] = []
    values: list[Override] = []
    for override in parse_overrides(overrides):
        (groups if override.key_or_group in tree.groups else values).append(override)
    fresh = compose_config("evaluate", [str(override.input_line) for override in groups])
    run = Path(folder).expanduser().resolve()
    config = completed_config(run, tree, Path(str(fresh.data_root)), {item.key_or_group for item in groups})
    config.run = str(run)
    for key in _DECIDED_ANEW:
        config[key] = fresh.get(key)
    for override in groups:
        config[override.key_or_group] = fresh.get(override.key_or_group)  # an empty list leaves no key
    for override in values:
        is_there = _has(config, override.key_or_group)
        if not is_there and not override.is_add():
            raise ValueError(f"override {override.input_line!r}: the run's configuration has no such key")
        OmegaConf.update(config, override.key_or_group, override.value(), merge=False, force_add=True)
    return config


def _has(config: DictConfig, key: str) -> bool:
    """Whether there is such a key, also one that still wants a value (`???`)."""
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    return isinstance(node, DictConfig) and name in list(node.keys())


def completed_config(run: Path, tree: ConfigTree, data_root: Path, replaced: set[str]) -> DictConfig:
    """A run's recorded configuration in today's words; what was completed is said.

    Args:
        data_root: today's, for data that moved.
        replaced: groups that the command line replaces anyway.
    """
    recorded = OmegaConf.to_container(read_config(run))
    assert isinstance(recorded, dict)
    referring = with_references(recorded, tree)  # type: ignore[arg-type]
    values, added = migrated(referring, tree, "evaluate")
    values, moved = relocated(values, data_root)
    # Roots hold what is decided anew; that it was missing in an older run is of no interest.
    shown = {key: value for key, value in added.items() if key.split(".")[0] not in {*replaced, *_DECIDED_ANEW, "run"}}
    old = {key: new for key, new in renamings(recorded).items() if key.split(".")[0] not in replaced}  # type: ignore[arg-type]
    say_migration(run, shown, [] if "dataset" in replaced else moved, old)
    return OmegaConf.create(values)


def with_references(recorded: dict[str, Any], tree: ConfigTree) -> dict[str, Any]:
    """A recorded configuration whose evaluators refer to other sections again, where both still agree.

    A run records values. Without the references of `conf/evaluator/`, `segmenter.grow_nm=20` would change the section
    `segmenter` and not the evaluator that floods with it.
    """
    evaluators = dict(recorded.get("evaluator") or {})
    for name, node in evaluators.items():
        if name in tree.groups.get("evaluator", []):
            evaluators[name] = _referring(node, tree.file(f"evaluator/{name}").values.get(name), recorded)
    return {**recorded, "evaluator": evaluators} if evaluators else recorded


def _referring(node: Any, today: Any, recorded: dict[str, Any]) -> Any:
    if isinstance(node, dict) and isinstance(today, dict):
        return {key: _referring(value, today.get(key), recorded) for key, value in node.items()}
    if isinstance(today, str) and (found := _REFERENCE.fullmatch(today)):
        with contextlib.suppress(KeyError):
            return today if select(recorded, found[1]) == node else node
    return node
