"""The quick way and OmegaConf give the same, or the quick way stands back."""

import os
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from nissl.runs.compose import conf_dir
from nissl.runs.interpolation import NotPlain, resolved
from nissl.runs.origins import ConfigTree, parse_overrides

TREE = ConfigTree(conf_dir())


@pytest.mark.parametrize("name", TREE.groups["experiment"])
def test_an_experiment_resolves_as_omegaconf_resolves_it(name: str) -> None:
    values = TREE.compose("train", parse_overrides([f"experiment={name}"])).values
    values = {key: value for key, value in values.items() if key not in ("hydra", "run_dir", "run_id")}
    values |= {"run_dir": "/run", "run_id": "r", "group": "g"}
    assert resolved(values) == OmegaConf.to_container(OmegaConf.create(values), resolve=True)


def test_keys_texts_sections_and_chains_are_followed() -> None:
    values: dict[str, Any] = {
        "a": {"x": 1, "list": [1, "${b}"]},
        "b": "${a.x}",
        "c": "${a}",
        "d": "at ${b}/${a.x}",
        "e": "${c.list}",
        "f": None,
        "g": "${f} ${h}",
        "h": True,
        "later": "???",
    }
    answer = resolved(values)
    assert answer == OmegaConf.to_container(OmegaConf.create(values), resolve=True)
    assert answer["e"] == [1, 1] and answer["d"] == "at 1/1" and answer["later"] == "???"
    assert values["b"] == "${a.x}"


def test_a_resolver_without_keys_is_called() -> None:
    assert resolved({"root": "${abspath:${oc.env:NISSL_NOWHERE,data}}"}) == {"root": os.path.abspath("data")}
    assert resolved({"root": "${abspath:runs}", "x": "${root}/a"})["x"] == str(Path("runs").resolve() / "a")


@pytest.mark.parametrize(
    "values",
    [
        {"a": "${b}"},
        {"a": "${b}", "b": "${a}"},
        {"a": "${b}", "b": "???"},
        {"a": "${b[0]}", "b": [1]},
        {"a": {"x": "${.y}", "y": 1}},
        {"a": "${abspath:${b}}", "b": "x"},
        {"a": "${oc.env:NISSL_NOWHERE}"},
        {"a": "\\${b}", "b": 1},
        {"a": "${b", "b": 1},
        {"a": "x ${b}", "b": {"c": 1}},
    ],
)
def test_anything_else_is_left_to_omegaconf(values: dict[str, Any]) -> None:
    with pytest.raises(NotPlain):
        resolved(values)
