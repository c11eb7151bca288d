from pathlib import Path
from typing import Any

import pytest
import yaml

from nissl.runs.search_space import as_override, difference, read_spec

SPEC: dict[str, Any] = {
    "base": ["experiment=x"],
    "space": {"lr": {"low": 1e-4, "high": 1e-2, "log": True}, "depth": {"choices": [3, 5]}},
    "objective": {"metric": "val/loss/last", "direction": "minimize"},
    "trials": 4,
}


def spec_file(folder: Path, **changes: Any) -> Path:
    path = folder / "search.yaml"
    path.write_text(yaml.safe_dump({**SPEC, **changes}))
    return path


def test_overrides_change_the_sweep_or_go_to_every_training(tmp_path: Path) -> None:
    spec = read_spec(spec_file(tmp_path), ["sweep.trials=9", "sweep.sampler.name=random", "trainer.max_steps=3"])
    assert spec.trials == 9 and spec.sampler["name"] == "random"
    overrides = spec.overrides({"lr": 1e-3, "depth": 5}, "base", seed=2)
    assert overrides == ["experiment=x", "trainer.max_steps=3", "lr=0.001", "depth=5", "seed=2"]


def test_corners_touch_every_choice_and_both_ends(tmp_path: Path) -> None:
    corners = read_spec(spec_file(tmp_path), []).corners()
    assert {corner["lr"] for corner in corners} == {1e-4, 1e-2} and {corner["depth"] for corner in corners} == {3, 5}


def test_a_grid_lists_every_point_once(tmp_path: Path) -> None:
    space = {"a": {"choices": [1, 2, 3]}, "b": {"choices": ["x", "y"]}}
    spec = read_spec(spec_file(tmp_path, space=space, sampler={"name": "grid"}, trials=None), [])
    assert spec.num_trials == 6 == len({tuple(point.items()) for point in spec.grid()})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {}}, "the space is empty"),
        ({"space": {"lr": {"low": 1.0}}}, "lr needs {choices"),
        ({"space": {"lr": {"low": "1e-3", "high": 1}}}, "YAML reads 1e-3 as text"),
        ({"space": {"lr": {"low": 2, "high": 1}}}, "with a < b"),
        ({"sampler": {"name": "grid"}}, "a grid needs choices for lr"),
        ({"sampler": {"name": "best"}}, "must be one of"),
        ({"trials": None}, "trials must be a number"),
        ({"objective": {"metric": "x", "direction": "down"}}, "minimize or maximize"),
        ({"seeds": [1, 1]}, "must be different"),
        ({"trails": 3}, "Did you mean 'trials'?"),
    ],
)
def test_a_wrong_sweep_file_is_refused_with_what_it_should_say(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_spec(spec_file(tmp_path, **changes), [])


def test_an_unknown_sweep_names_the_near_one(tmp_path: Path) -> None:
    spec_file(tmp_path)
    with pytest.raises(ValueError, match="Did you mean 'search'"):
        read_spec(tmp_path / "serach.yaml", [])


def test_values_are_written_in_override_syntax() -> None:
    values = [None, True, [1, 2.5, None], "plain", 1e-05]
    assert [as_override(value) for value in values] == ["null", "true", "[1,2.5,null]", "plain", "1e-05"]


def test_a_difference_names_only_what_differs() -> None:
    assert difference({"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 4, "d": 3}}) == ["b.c: 2 -> 4"]
