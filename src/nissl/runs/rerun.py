"""A run again, from its folder: the command line that composes its configuration, and whether the numbers agree.

The overrides of the run are composed with today's files; wherever that gives something else than was recorded, the
recorded value is put on the command line, so defaults changed since do not matter. `train.py` then does what it always
does, validation included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nissl.runs.compose import compose_config, conf_dir, read_config, resolve
from nissl.runs.folder import read_json
from nissl.runs.migration import migrated, relocated, renamings, say_migration
from nissl.runs.origins import ConfigTree

TOLERANCE = 1e-6
# Where and how a run is stored and watched is decided by the new one.
_OF_THE_RUN = ("format", "run_dir", "run_id", "runs_dir", "data_root", "resume", "group", "run", "logger")
_MISSING = object()


def rerun_overrides(folder: Path, more: list[str]) -> list[str]:
    """The overrides of train.py that repeat a run.

    Args:
        folder: run folder of a training.
        more: further overrides; they win.

    Raises:
        ValueError: if the folder holds no training.
    """
    if (status := folder / "status.json").exists() and read_json(status)["kind"] != "training":
        raise ValueError(f"{folder} is an evaluation: repeat it with evaluate.py and its overrides.txt")
    texts = [text for text in (folder / "overrides.txt").read_text().splitlines() if _is_repeated(text)]
    recorded: Any = OmegaConf.to_container(read_config(folder))
    renamed = renamings(recorded)
    texts = [_in_todays_words(text, renamed) for text in texts]
    today = compose_config("train", texts)
    values, added = migrated(recorded, ConfigTree(conf_dir()), "train")
    values, moved = relocated(values, Path(str(today.data_root)))
    shown = {key: value for key, value in added.items() if key.split(".")[0] not in _OF_THE_RUN}
    say_migration(folder, shown, moved, renamed)
    wanted = resolve(OmegaConf.create(values))
    return [*texts, *_differences(wanted, resolve(today)), *more]


def _is_repeated(text: str) -> bool:
    key = text.split("=")[0].lstrip("+~")
    return bool(text) and not text.startswith("-") and (key == "logger" or key not in _OF_THE_RUN)


def _in_todays_words(text: str, renamed: dict[str, str]) -> str:
    """An override with its key as it is called today."""
    key, equals, value = text.partition("=")
    bare = key.lstrip("+~")
    return key[: len(key) - len(bare)] + renamed.get(bare, bare) + equals + value


def _differences(wanted: DictConfig, today: DictConfig) -> list[str]:
    now = dict(_leaves(OmegaConf.to_container(today)))
    then = dict(_leaves(OmegaConf.to_container(wanted)))
    changed = [f"++{key}={_quoted(value)}" for key, value in then.items() if now.get(key, _MISSING) != value]
    gone = [f"~{key}" for key in now if key not in then and not any(key.startswith(f"{k}.") for k in then)]
    return changed + gone


def _leaves(node: Any, prefix: str = "") -> Any:
    for key, value in node.items():
        if not prefix and key in _OF_THE_RUN:
            continue
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _quoted(value: Any) -> str:
    """A value in Hydra's override syntax, texts in quotes."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    if isinstance(value, list):
        return f"[{','.join(_quoted(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_quoted(item)}' for key, item in value.items())}}}"
    return repr(value)


@dataclass(frozen=True)
class Agreement:
    """Whether two runs gave the same numbers.

    Attributes:
        num_equal: metrics within the tolerance in both.
        different: metric -> (then, now), NaN where it is missing.
    """

    num_equal: int
    different: dict[str, tuple[float, float]]

    def __str__(self) -> str:
        if not self.different:
            return f"reproduced: all {self.num_equal} numbers of summary.json agree to {TOLERANCE:g}"
        width = max(len(name) for name in self.different)
        lines = [f"  {name:<{width}}  {a:.8g} then, {b:.8g} now" for name, (a, b) in self.different.items()]
        return "\n".join([f"not reproduced: {len(lines)} numbers differ, {self.num_equal} agree", *lines])


def agreement(first: Path, second: Path) -> Agreement:
    """Compare the summaries of two run folders."""
    then, now = (read_json(folder / "summary.json") for folder in (first, second))
    different = {}
    names = sorted(then.keys() | now.keys())
    for name in names:
        a, b = (math.nan if side.get(name) is None else float(side[name]) for side in (then, now))
        both_undefined = math.isnan(a) and math.isnan(b) and name in then and name in now
        if not both_undefined and not math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
            different[name] = (a, b)
    return Agreement(len(names) - len(different), different)
