"""Configurations of older runs in today's words: renamed keys, defaults for keys that were not there, moved data.

What a run recorded is never replaced, only renamed and completed; every completion is said. A class whose arguments
were renamed says so in a class-level literal, `renamed = {"old": "new"}`. A key that today's class no longer takes is
left where it is: validation names it.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from nissl.runs.compose import is_path_key
from nissl.runs.origins import ConfigTree
from nissl.runs.signatures import TargetError, signature

log = logging.getLogger(__name__)

_SECTIONS = ("dataset", "model", "task", "segmenter")
_OWN_KEYS = {"model": ("weights",)}  # beside the constructor's arguments


def migrated(values: dict[str, Any], tree: ConfigTree, root: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A recorded configuration, completed.

    Args:
        values: plain values of a run's config.yaml.
        tree: today's configuration folder.
        root: `train` or `evaluate`, whose top keys are completed too.

    Returns:
        the completed configuration (the argument is not changed), and dotted key -> default of what was added.
    """
    values = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    for old, new in renamings(values).items():
        section, name = old.split(".")
        values[section][new.split(".")[1]] = values[section].pop(name)
    added: dict[str, Any] = {}
    for key, default in tree.file(root).values.items():
        if key in ("defaults", "hydra"):
            continue
        if key not in values:
            values[key] = added[key] = default
        elif isinstance(default, dict) and isinstance(values[key], dict):
            _complete(values[key], default, key, added)
    for section in _SECTIONS:
        node = values.get(section)
        if isinstance(node, dict) and "_target_" in node:
            _complete(node, _defaults(node, section, tree), section, added)
    for name, node in (values.get("evaluator") or {}).items():
        if isinstance(node, dict) and "_target_" in node and name in tree.groups.get("evaluator", []):
            values["evaluator"] = {**values["evaluator"], name: dict(node)}
            today = tree.file(f"evaluator/{name}").values.get(name, {})
            if today.get("_target_") == node["_target_"]:
                _complete(values["evaluator"][name], today, f"evaluator.{name}", added)
    # Interpolations in defaults refer to other keys of the same configuration, which are all there.
    return values, added


def renamings(values: dict[str, Any]) -> dict[str, str]:
    """Dotted key as recorded -> as it is called today, for keys of a recorded configuration that were renamed."""
    found: dict[str, str] = {}
    for section in _SECTIONS:
        node = values.get(section)
        if not isinstance(node, dict) or "_target_" not in node:
            continue
        try:
            renamed = signature(node["_target_"]).literals.get("renamed") or {}
        except TargetError:
            continue
        found |= {
            f"{section}.{old}": f"{section}.{new}" for old, new in renamed.items() if old in node and new not in node
        }
    return found


def _complete(node: dict[str, Any], defaults: dict[str, Any], path: str, added: dict[str, Any]) -> None:
    for key, default in defaults.items():
        if key not in node and default != "???":
            node[key] = added[f"{path}.{key}"] = default


def _defaults(node: dict[str, Any], section: str, tree: ConfigTree) -> dict[str, Any]:
    """Today's values of the arguments, from the option of the group that is most like the recorded section."""
    try:
        known = {*signature(node["_target_"]).parameters, *_OWN_KEYS.get(section, ())}
    except TargetError:
        return {}
    best: dict[str, Any] = {}
    most = -1
    for option in tree.groups.get(section, []):
        today = tree.compose(f"{section}/{option}", []).values.get(section) or {}
        equal = sum(today.get(key) == value for key, value in node.items())
        if today.get("_target_") == node["_target_"] and equal > most:
            best, most = today, equal
    return {key: value for key, value in best.items() if key in known}


def relocated(values: dict[str, Any], new_root: Path) -> tuple[dict[str, Any], list[str]]:
    """Files below the run's data root that are gone, but are below today's.

    Args:
        values: configuration of a run, with the `data_root` it had.
        new_root: today's data root (NISSL_DATA).

    Returns:
        the configuration with today's paths, and one sentence per file that has moved.
    """
    old_root = str(values.get("data_root") or "")
    sentences: list[str] = []

    def moved(text: str) -> str:
        if not old_root or Path(text).exists() or not text.startswith(f"{old_root}/"):
            return text
        new = new_root / text[len(old_root) + 1 :]
        if not new.exists():
            return text
        sentences.append(f"{text} is now {new}")
        return str(new)

    def visit(node: Any, is_path: bool) -> Any:
        if isinstance(node, dict):
            return {key: visit(value, is_path_key(str(key))) for key, value in node.items()}
        if isinstance(node, list):
            return [visit(item, is_path) for item in node]
        return moved(node) if is_path and isinstance(node, str) else node

    return {**values, "dataset": visit(values.get("dataset"), False)}, sentences


def relocated_files(folder: Path, config: Any, new_root: Path) -> dict[str, str]:
    """Recorded data file -> where it is below today's data root, for those that are no longer where they were."""
    from nissl.runs.folder import read_json

    record = folder / "provenance.json"
    entries = read_json(record).get("data", []) if record.exists() else []
    paths = [{"path": entry["path"]} for entry in entries]
    values, _ = relocated({"data_root": config.get("data_root"), "dataset": {"files": paths}}, new_root)
    return {old["path"]: new["path"] for old, new in zip(paths, values["dataset"]["files"], strict=True) if old != new}


def say_migration(folder: Path, added: dict[str, Any], moved: list[str], renamed: dict[str, str]) -> None:
    """Warn of every completion."""
    for old, new in renamed.items():
        log.warning("%s: %s is now called %s", folder, old, new)
    if added:
        keys = ", ".join(f"{key}={value}" for key, value in added.items())
        log.warning("%s was written before these keys existed; today's defaults are used: %s", folder, keys)
    for sentence in moved:
        log.warning("%s", sentence)
