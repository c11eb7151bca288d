"""Overrides that lead nowhere, with the nearest key, group or option.

Hydra stops at the first unknown key and names no near one; here each override is looked at, and the rest is composed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hydra.core.override_parser.types import Override

from nissl.runs.origins import Composed, ConfigTree, all_keys, parse_overrides, select
from nissl.runs.problems import ConfigError, Problem, nearest, shown
from nissl.runs.signatures import TargetError, signature


def compose_checked(root: str, texts: list[str], tree: ConfigTree) -> Composed:
    """Compose one configuration whose overrides all lead somewhere.

    Raises:
        ConfigError: if one does not.
    """
    overrides = parse_overrides(texts)
    problems, composed = compose_rest(root, overrides, tree)
    if composed is None or problems:
        raise ConfigError(problems)
    return composed


def compose_rest(root: str, overrides: list[Override], tree: ConfigTree) -> tuple[list[Problem], Composed | None]:
    """Leave out what is wrong and compose the rest, so that one slip does not hide another."""
    problems: list[Problem] = []
    groups, values = [], []
    for override in overrides:
        if override.is_hydra_override():
            continue
        if override.is_sweep_override():
            hint = "Add -m for a grid, or write a list as [1,2] or a text in quotes."
            problems.append(Problem(str(override.input_line), "several values for one run", hint))
        elif override.key_or_group in tree.groups and not isinstance(override.value(), dict):
            wrong = list(wrong_choice(override, tree))
            problems += wrong
            groups += [] if wrong else [override]
        else:
            values.append(override)
    try:
        composed = tree.compose(root, groups)
    except ConfigError as error:
        return problems + error.problems, None
    kept = []
    added: set[str] = set()
    for override in values:
        wrong = list(wrong_key(override, composed, tree, root, added))
        problems += wrong
        kept += [] if wrong else [override]
    return problems, tree.compose(root, groups + kept)


def wrong_choice(override: Override, tree: ConfigTree) -> Iterator[Problem]:
    group, value = override.key_or_group, override.value()
    options = tree.groups[group]
    if value is None and not override.is_delete():
        yield Problem(str(override.input_line), "Hydra takes no null for a group", f"To choose none, write {group}=[]")
        return
    for option in value if isinstance(value, list) else [value]:
        if option not in options and not override.is_delete():
            close = nearest(str(option), options)
            file = shown(str(tree.folder / group / f"{close}.yaml"))
            hint = f"Did you mean '{group}={close}' ({file}:1)?" if close else f"There are: {', '.join(options)}."
            yield Problem(str(override.input_line), f"'{group}' has no option '{option}'", hint)


def wrong_key(
    override: Override, composed: Composed, tree: ConfigTree, root: str, added: set[str]
) -> Iterator[Problem]:
    """A key that is not there, unless it is being added; one that is there, if it is."""
    key, line = override.key_or_group, str(override.input_line)
    if "/" in key:
        yield Problem(line, f"no group '{key}'", f"There are: {', '.join(tree.groups)}.")
        return
    try:
        present = select(composed.values, key)
        exists = True
    except KeyError:
        present, exists = None, key in added
    if override.is_add() or override.is_force_add():
        added.add(key)
        if override.is_add() and exists and present is not None and not isinstance(override.value(), dict | list):
            yield Problem(line, f"'{key}' is there already ({composed.where(key)})", f"Leave out the +: {line[1:]}")
    elif override.is_delete() and exists and present is None:
        yield Problem(line, f"'{key}' is null, which Hydra cannot delete", "Leave it out.")
    elif not exists:
        yield Problem(line, f"there is no key '{key}'", _suggest(key, composed, tree, root))


def _suggest(key: str, composed: Composed, tree: ConfigTree, root: str) -> str:
    """The nearest key: beside it, by its last word anywhere, or by its whole name."""
    parent, _, name = key.rpartition(".")
    keys = list(all_keys(composed.values))
    if not parent:
        close = nearest(name, [*tree.groups, *composed.values])
        if close in tree.groups:
            return f"Did you mean '{close}' ({tree.file(root).where(f'defaults.{close}')})?"
        if close:
            return f"Did you mean '{close}' ({composed.where(close)})?"
    siblings = [known for known in keys if known.rpartition(".")[0] == parent]
    arguments, place = _arguments(composed.values, parent)
    if name in arguments:
        return f"It is an argument that the configuration leaves out ({place}); add it: +{key}=<value>"
    close = nearest(name, [known.rpartition(".")[2] for known in siblings]) if parent else None
    if close:
        return f"Did you mean '{parent}.{close}' ({composed.where(f'{parent}.{close}')})?"
    close = nearest(name, arguments)
    if close:
        return f"Did you mean '+{parent}.{close}' ({place})?"
    by_name = {known.rpartition(".")[2]: known for known in reversed(keys)}
    close = nearest(name, by_name, 0.75)
    found = by_name[close] if close else nearest(key, keys, 0.75)
    if found:
        return f"Did you mean '{found}' ({composed.where(found)})?"
    if siblings:
        names = ", ".join(known.rpartition(".")[2] for known in siblings)
        return f"'{parent}' has: {names} ({composed.where(parent)})."
    return f"There are: {', '.join([*tree.groups, *(k for k in composed.values if k not in tree.groups)])}."


def _arguments(values: dict[str, Any], path: str) -> tuple[list[str], str]:
    """Names that the class at a path takes, and where it is."""
    try:
        node = select(values, path) if path else values
        target = signature(str(node["_target_"]))
    except (KeyError, TypeError, TargetError):
        return [], ""
    return list(target.parameters), shown(target.where)
