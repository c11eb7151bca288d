"""Is a configuration able to run? Every problem at once, in a fraction of a second, before torch is imported.

`train.py` asks twice: `check_command_line` before Hydra starts, because Hydra stops at the first unknown key, names no
near one, and checks the points of a grid only when their turn comes
(https://github.com/hydra-ecosystem/hydra/issues/2888); and `validate` with what Hydra composed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import Glob, Override, QuotedString
from omegaconf import DictConfig, OmegaConf

from nissl.runs.checks import check, unchosen
from nissl.runs.compose import conf_dir, read_config
from nissl.runs.migration import migrated
from nissl.runs.origins import Composed, ConfigTree, Origin, all_keys, parse_overrides
from nissl.runs.overrides import compose_rest, wrong_choice, wrong_key
from nissl.runs.problems import ConfigError, Problem, nearest, shown


def validate(cfg: DictConfig) -> None:
    """Check a composed configuration; `train.py` and `evaluate.py` call it first.

    Raises:
        ConfigError: with every problem.
    """
    values: dict[str, Any] = OmegaConf.to_container(cfg, resolve=False)  # type: ignore[assignment]
    problems = check(values, ConfigTree(conf_dir()))
    if problems:
        raise ConfigError(problems)


def check_command_line(root: str, argv: list[str]) -> None:
    """Check the arguments of `train.py` or `evaluate.py`, every point of a grid included.

    Args:
        root: `train` or `evaluate`.
        argv: arguments without the program's name.

    Raises:
        ConfigError: with every problem.
    """
    arguments = get_args_parser().parse_args(argv)
    if arguments.help or arguments.hydra_help or arguments.info or arguments.shell_completion:
        return
    tree = ConfigTree(Path(arguments.config_path).resolve() if arguments.config_path else conf_dir())
    # --cfg prints a configuration that need not be complete.
    problems = check_overrides(
        arguments.config_name or root, arguments.overrides, tree, arguments.multirun, whole=not arguments.cfg
    )
    if problems:
        raise ConfigError(problems)


def check_overrides(
    root: str,
    texts: list[str],
    tree: ConfigTree,
    multirun: bool = False,
    whole: bool = True,
    with_paths: bool = True,
) -> list[Problem]:
    """Problems of a root file with overrides.

    Args:
        multirun: whether a list of values makes a grid.
        whole: False: only whether it can be composed.
        with_paths: whether data files must be there.
    """
    try:
        overrides = parse_overrides(texts)
    except ConfigError as error:
        return error.problems
    run = next((item.value() for item in overrides if item.key_or_group == "run"), None)
    if root == "evaluate" and run is not None:
        return list(_evaluation_of_run(str(run), overrides, tree))
    problems: dict[Problem, None] = {}
    for point in grid_points(overrides, tree) if multirun else [overrides]:
        problems.update(dict.fromkeys(_check_point(root, point, tree, whole, with_paths)))
    return list(problems)


def validate_all(tree: ConfigTree) -> tuple[int, list[Problem]]:
    """Every experiment as a whole, and every other file of `conf/` by itself; missing data files are no problem here.

    Returns:
        number of configurations checked, and the problems.
    """
    problems: list[Problem] = []
    used = {"train"}
    experiments = tree.groups.get("experiment", [])
    for name in experiments:
        try:
            composed = tree.compose("train", parse_overrides([f"experiment={name}"]))
        except ConfigError as error:
            problems += error.problems
            used.add(f"experiment/{name}")
            continue
        used |= set(composed.files)
        problems += unchosen(composed, tree, "train")
        problems += check(composed.values, tree, composed.where, "train", with_paths=False)
    rest = [name for name in tree.names if name not in used and not name.startswith("sweep/")]
    for name in rest:
        try:
            composed = tree.compose(name, [])
            problems += check(composed.values, tree, composed.where, None, with_paths=False, whole=False)
        except ConfigError as error:
            problems += error.problems
    return len(experiments) + len(rest), list(dict.fromkeys(problems))


def grid_points(overrides: list[Override], tree: ConfigTree) -> Iterator[list[Override]]:
    """The combinations of a grid, in Hydra's order.

    Raises:
        ConfigError: for an interval, which has no list of values.
    """
    choices: list[list[str]] = []
    for override in overrides:
        if not override.is_sweep_override():
            choices.append([str(override.input_line)])
        elif isinstance(override._value, Glob):
            options = override._value.filter(tree.groups.get(override.key_or_group, []))
            choices.append([f"{override.get_key_element()}={option}" for option in options])
        elif override.is_discrete_sweep():
            values = override.sweep_iterator()
            choices.append([f"{override.get_key_element()}={_as_typed(value)}" for value in values])
        else:
            hint = "List the values: key=1,2,3 or key=range(1,4)"
            raise ConfigError([Problem(str(override.input_line), "an interval is no grid", hint)])
    for point in itertools.product(*choices):
        yield parse_overrides(list(point))


def _check_point(
    root: str, overrides: list[Override], tree: ConfigTree, whole: bool, with_paths: bool
) -> list[Problem]:
    problems, composed = compose_rest(root, overrides, tree)
    if composed is not None and whole:
        problems += unchosen(composed, tree, root)
        problems += check(composed.values, tree, composed.where, root, with_paths)
        if root == "evaluate":
            problems += _nothing_to_evaluate(composed, tree)
    return problems


def _nothing_to_evaluate(composed: Composed, tree: ConfigTree) -> list[Problem]:
    """An evaluation without a run needs all three named."""
    return [
        Problem(
            tree.file("evaluate").where(f"defaults.{group}"),
            f"neither a run nor a {group} is given",
            f"Give run=<folder>, or {group}=<option>; there are: {', '.join(tree.groups.get(group, []))}.",
        )
        for group in ("dataset", "model", "evaluator")
        if not composed.values.get(group)
    ]


def _evaluation_of_run(run: str, overrides: list[Override], tree: ConfigTree) -> Iterator[Problem]:
    """`evaluate.py run=<folder> ...`: the keys are those of the run's own configuration."""
    folder = Path(run).expanduser()
    if not (folder / "config.yaml").exists():
        siblings = [path.parent.name for path in folder.parent.glob("*/config.yaml")] if folder.parent.is_dir() else []
        close = nearest(folder.name, siblings)
        hint = f"Did you mean 'run={folder.parent / close}'?" if close else "Give the folder that train.py printed."
        yield Problem(f"run={run}", "not a run folder (no config.yaml)", hint)
        return
    groups = [item for item in overrides if item.key_or_group in tree.groups and not isinstance(item.value(), dict)]
    wrong = {item.key_or_group: list(wrong_choice(item, tree)) for item in groups}
    yield from (problem for problems in wrong.values() for problem in problems)
    composed = tree.compose("evaluate", [item for item in groups if not wrong[item.key_or_group]])
    recorded: dict[str, Any] = OmegaConf.to_container(read_config(folder), resolve=False)  # type: ignore[assignment]
    values, _ = migrated(recorded, tree, "evaluate")
    # A group that is chosen anew has the keys of its file, not those that the run recorded.
    values = {key: value for key, value in values.items() if key not in wrong or wrong[key]}
    place = Origin(shown(folder / "config.yaml"), None)
    merged = Composed({**composed.values, **values}, {**composed.origins, **{key: [place] for key in all_keys(values)}})
    for override in overrides:
        if override not in groups and not override.is_hydra_override():
            yield from wrong_key(override, merged, tree, "evaluate", set())


def _as_typed(value: Any) -> str:
    """A value as it would stand in an override."""
    if isinstance(value, QuotedString):
        return value.with_quotes()
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else Override._get_value_element_as_str(value)
