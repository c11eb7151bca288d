"""What can be wrong with a composed configuration, and where it was written.

Checked: values still missing, interpolations that lead nowhere, `_target_`s outside the allowed packages or not there,
argument names and simple types against the constructors' source, keys that nobody reads, paths, the metric that
chooses the best checkpoint, and whether each evaluator fits the model. Nothing is imported to find out: sources are
read with `ast` (`signatures`), YAML with its line numbers (`origins`).
"""

from __future__ import annotations

import ast
import fnmatch
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nissl.runs.annotations import accepts
from nissl.runs.compose import is_path_key
from nissl.runs.interpolation import NotPlain, resolved
from nissl.runs.origins import Composed, ConfigTree, all_keys, select
from nissl.runs.problems import Problem, nearest, shown
from nissl.runs.signatures import Signature, TargetError, signature

# Keys of hydra.utils.instantiate.
HYDRA_KEYS = {"_target_", "_partial_", "_recursive_", "_convert_"}
# Arguments that train.py and evaluate.py pass themselves.
PASSED_IN_CODE = {"task": {"model"}, "trainer": {"default_root_dir", "logger", "callbacks"}}
# Sections without `_target_` whose keys are arguments of a class all the same.
ARGUMENTS_OF = {"loader": "nissl.datasets.datamodule.DataModule"}
# Keys beside the constructor's arguments: `weights` is read before the model is built.
BESIDE_ARGUMENTS = {"model": {"weights"}}
CHOICES = {"weights_to_evaluate": ("best", "last")}
# Filled in when the run starts, so null is no wrong type for what refers to them.
FILLED_AT_START = ("run_dir", "run_id", "group")

Where = Callable[[str], str]


def check(
    values: dict[str, Any],
    tree: ConfigTree,
    where: Where | None = None,
    root: str | None = None,
    with_paths: bool = True,
    whole: bool = True,
) -> list[Problem]:
    """Everything wrong with one configuration.

    Args:
        values: plain values, interpolations as written, `???` where missing.
        tree: the configuration folder, which says what keys there are.
        where: dotted key -> file and line; default: the key itself.
        root: root file whose keys are allowed at the top; None: any root's.
        with_paths: whether files must be there.
        whole: False for a fragment: what refers to other sections is not judged.
    """
    values = {key: value for key, value in values.items() if key != "hydra"}
    checker = _Checker(values, tree, where or (lambda key: key), root, with_paths, whole)
    return list(checker.problems())


def unchosen(composed: Composed, tree: ConfigTree, root: str) -> list[Problem]:
    """Groups of which an option must be named and is not."""
    return [
        Problem(
            tree.file(root).where(f"defaults.{group}"),
            f"no {group} is chosen",
            f"Name one: {group}=<option>; there are: {', '.join(tree.groups.get(group, [])) or 'none'}.",
        )
        for group in sorted(composed.unchosen)
    ]


class _Checker:
    """One pass over one configuration."""

    def __init__(
        self, values: dict[str, Any], tree: ConfigTree, where: Where, root: str | None, with_paths: bool, whole: bool
    ) -> None:
        self.raw, self.tree, self.where, self.root = values, tree, where, root
        self.with_paths, self.whole = with_paths, whole
        self.resolved: dict[str, Any] = {}
        self.signatures: dict[str, Signature] = {}  # dotted key of the section -> its class

    def problems(self) -> Iterator[Problem]:
        yield from self._missing()
        yield from self._interpolations()
        yield from self._section("", self.resolved)
        for key, choices in CHOICES.items():
            if self.resolved.get(key, choices[0]) not in choices:
                yield self._problem(key, f"{key} is one of {', '.join(choices)}; came {self.resolved[key]!r}")
        if self.with_paths:
            yield from self._paths("", self.resolved)
        if self.whole:
            yield from self._monitors()
            yield from self._evaluators_fit()

    def _problem(self, key: str, message: str, hint: str = "") -> Problem:
        return Problem(self.where(key), message, hint)

    def _missing(self) -> Iterator[Problem]:
        if not self.whole:
            return
        for key in all_keys(self.raw):
            if select(self.raw, key) == "???":
                yield self._problem(key, f"'{key}' has no value", f"Give one: {key}=<value>")

    def _interpolations(self) -> Iterator[Problem]:
        """Fill `resolved`; what cannot be resolved stays as written and is reported."""
        try:
            self.resolved = resolved(self.raw)
            return
        except NotPlain:
            config = OmegaConf.create(self.raw)
        try:
            self.resolved = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
            return
        except OmegaConfBaseException:
            self.resolved = OmegaConf.to_container(config, resolve=False)  # type: ignore[assignment]
        for key in all_keys(self.raw):
            value = select(self.raw, key)
            if isinstance(value, dict) or "${" not in str(value):
                continue
            parent, _, name = key.rpartition(".")
            target = select(self.resolved, parent) if parent else self.resolved
            try:
                node = OmegaConf.select(config, key)
                target[name] = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
            except OmegaConfBaseException as error:
                if self.whole:
                    wanted = str(value).strip("${}")
                    close = nearest(wanted, all_keys(self.raw))
                    hint = f"Did you mean '${{{close}}}' ({self.where(close)})?" if close else ""
                    yield self._problem(key, f"'{key}: {value}' cannot be resolved: {_first_line(error)}", hint)

    # --- sections and their arguments ---------------------------------------------------------------------------

    def _section(self, path: str, node: dict[str, Any]) -> Iterator[Problem]:
        target = node.get("_target_", ARGUMENTS_OF.get(path))
        if target is not None:
            yield from self._arguments(path, node, target)
            return
        declared = self._declared(path)
        for key, value in node.items():
            dotted = f"{path}.{key}" if path else key
            if key not in declared:
                yield from self._undeclared(dotted, value, declared)
            elif isinstance(value, dict):
                if "_target_" not in value and "_target_" in self._declared(dotted):
                    # An experiment's settings of evaluators that the command line replaced are of no interest. A
                    # configuration without origins has passed the check of the command line, which knows them.
                    where = self.where(dotted)
                    if path == "evaluator" and ("experiment/" in where or where == dotted):
                        continue
                    hint = f"Choose it: {path}=[...,{key}]" if path else ""
                    yield self._problem(dotted, f"'{dotted}' has arguments but was not chosen", hint)
                else:
                    yield from self._section(dotted, value)
            else:
                yield from self._like_default(dotted, value, declared[key])

    def _declared(self, path: str) -> dict[str, Any]:
        """Keys that root and group files offer at a path, with the value they give."""
        found: dict[str, Any] = {}
        for file, inner in self.tree.writers(path):
            if "/" not in file.name and self.root is not None and file.name != self.root and not path:
                continue
            try:
                node = select(file.values, inner) if inner else file.values
            except KeyError:
                continue
            if isinstance(node, dict):
                found.update(node)
        if not path:
            found.update(dict.fromkeys(self.tree.groups))
            found.setdefault("format", 1)
        return found

    def _undeclared(self, key: str, value: Any, declared: dict[str, Any]) -> Iterator[Problem]:
        name = key.rpartition(".")[2]
        close = nearest(name, declared)
        parent = key.rpartition(".")[0]
        if close:
            hint = f"Did you mean '{parent}.{close}'?" if parent else f"Did you mean '{close}'?"
        else:
            elsewhere = nearest(name, {known.rpartition(".")[2] for known in all_keys(self.raw) if known != key}, 0.8)
            known = next((k for k in all_keys(self.raw) if k != key and k.rpartition(".")[2] == elsewhere), None)
            hint = f"Did you mean '{known}' ({self.where(known)})?" if known else f"There are: {', '.join(declared)}."
        yield self._problem(key, f"nothing reads '{key}'", hint)

    def _like_default(self, key: str, value: Any, default: Any) -> Iterator[Problem]:
        """A plain number, text or switch keeps the type its root file gives it."""
        if isinstance(default, bool | int | float | str) and "${" not in str(default) and default != "???":
            kind = ast.Name(type(default).__name__)
            if value is not None and value != "???" and not accepts(kind, value):
                yield self._problem(key, f"'{key}' is {_article(kind.id)}; came {value!r} ({type(value).__name__})")

    def _arguments(self, path: str, node: dict[str, Any], target: Any) -> Iterator[Problem]:
        try:
            found = signature(str(target))
        except TargetError as error:
            yield self._problem(f"{path}._target_", str(error))
            return
        self.signatures[path] = found
        passed = PASSED_IN_CODE.get(path, set())
        beside = BESIDE_ARGUMENTS.get(path, set())
        for key, value in node.items():
            dotted = f"{path}.{key}"
            if key in HYDRA_KEYS or key in beside:
                continue
            if key in passed:
                yield self._problem(dotted, f"'{dotted}' is passed by the program itself; leave it out")
            elif key not in found.parameters and not found.is_open:
                yield self._problem(dotted, f"'{key}' is no argument of {target}", self._takes(path, key, found))
            elif key in found.parameters:
                yield from self._type(dotted, value, found.parameters[key].annotation)
            yield from self._nested(dotted, value)
        if self.whole and not node.get("_partial_") and path not in ARGUMENTS_OF:
            needed = {name for name, parameter in found.parameters.items() if parameter.required}
            for name in sorted(needed - set(node) - passed):
                yield self._problem(
                    path, f"{target} needs '{name}', which has no key", f"Add {path}.{name} ({found.where})"
                )

    def _takes(self, path: str, key: str, found: Signature) -> str:
        names = [name for name in found.parameters if name not in PASSED_IN_CODE.get(path, set())]
        close = nearest(key, names)
        if close is None:
            return f"It takes: {', '.join(names) or 'nothing'} ({shown(found.where)})."
        dotted = f"{path}.{close}"
        try:
            select(self.raw, dotted)
        except KeyError:
            return f"Did you mean '{dotted}' ({shown(found.where)})?"
        return f"Did you mean '{dotted}' ({self.where(dotted)})?"

    def _type(self, key: str, value: Any, annotation: ast.expr | None) -> Iterator[Problem]:
        if value == "???" or (isinstance(value, str) and "${" in value):
            return
        if value is None and self._written(key) in {f"${{{name}}}" for name in FILLED_AT_START}:
            return
        if not accepts(annotation, value):
            assert annotation is not None
            expected = ast.unparse(annotation).strip("'\"")
            yield self._problem(key, f"'{key}' expects {expected}; came {value!r} ({_kind(value)})")

    def _written(self, key: str) -> Any:
        """What the files say at a key; None inside a section that is written elsewhere (`segmenter: ${segmenter}`)."""
        try:
            return select(self.raw, key)
        except KeyError:
            return None

    def _nested(self, path: str, value: Any) -> Iterator[Problem]:
        """Objects among the arguments, at any depth; a mapping without `_target_` is an argument's own business."""
        if isinstance(value, dict):
            if "_target_" in value:
                yield from self._arguments(path, value, value["_target_"])
            else:
                for key, item in value.items():
                    yield from self._nested(f"{path}.{key}", item)

    # --- what sections demand of each other ---------------------------------------------------------------------

    def _paths(self, path: str, node: dict[str, Any]) -> Iterator[Problem]:
        for key, value in node.items():
            dotted = f"{path}.{key}" if path else str(key)
            if isinstance(value, dict):
                yield from self._paths(dotted, value)
            elif is_path_key(str(key)):
                for item in value if isinstance(value, list) else [value]:
                    if isinstance(item, str) and item != "???" and "${" not in item:
                        if not Path(item).expanduser().exists():
                            yield self._problem(dotted, f"'{dotted}': there is no file {item}", self._where_data(item))

    def _where_data(self, path: str) -> str:
        data_root = str(self.resolved.get("data_root"))
        if path.startswith(data_root):
            return f"The data root is {data_root} (set NISSL_DATA); 'nissl data check' says what it lacks."
        return "Relative paths start from the folder you are in." if not Path(path).is_absolute() else ""

    def _monitors(self) -> Iterator[Problem]:
        """What chooses the best checkpoint, or stops early, must be logged, and in the right direction."""
        known: dict[str, Any] = {}
        for path, found in self.signatures.items():
            while_training = path.startswith("callbacks.") and ".evaluators." in path
            if path == "task" or path.startswith("evaluator.") or while_training:
                metrics = found.literals.get("metrics", {})
                if not isinstance(metrics, dict):
                    return  # not a literal: unknown, so nothing can be said
                known.update({f"val/{name}": way for name, way in metrics.items()} if while_training else metrics)
        if "task" not in self.signatures or "metrics" not in self.signatures["task"].literals:
            return
        for name, node in (self.resolved.get("callbacks") or {}).items():
            monitor = node.get("monitor") if isinstance(node, dict) else None
            if not isinstance(monitor, str) or monitor == "???":
                continue
            key = f"callbacks.{name}.monitor"
            pattern = next((pattern for pattern in known if fnmatch.fnmatchcase(monitor, pattern)), None)
            if pattern is None:
                close = nearest(monitor, known, 0.4)
                hint = f"Did you mean '{close}'?" if close else f"There are: {', '.join(known)}."
                yield self._problem(key, f"nobody logs '{monitor}'", hint)
            elif known[pattern] in ("min", "max") and node.get("mode", known[pattern]) != known[pattern]:
                yield self._problem(
                    f"callbacks.{name}.mode",
                    f"'{monitor}' is better when {'smaller' if known[pattern] == 'min' else 'larger'}; "
                    f"mode is {node['mode']}",
                    f"Set callbacks.{name}.mode={known[pattern]}",
                )

    def _evaluators_fit(self) -> Iterator[Problem]:
        """An evaluator that says `needs = ("embed",)` wants a model with that method."""
        model = self.signatures.get("model")
        if model is None:
            return
        for path, found in self.signatures.items():
            if path.startswith("evaluator."):
                for method in found.literals.get("needs") or ():
                    if method not in model.methods:
                        yield self._problem(
                            path,
                            f"{path} needs a model with '{method}', which {self.resolved['model']['_target_']} has not",
                            f"Leave it out of evaluator=[...], or write '{method}' in {shown(model.where)}",
                        )


def _kind(value: Any) -> str:
    return {"NoneType": "null", "dict": "a mapping", "list": "a list"}.get(type(value).__name__, type(value).__name__)


def _article(kind: str) -> str:
    return {"int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false"}[kind]


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
