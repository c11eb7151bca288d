from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from nissl.runs.compose import conf_dir
from nissl.runs.origins import ConfigTree, parse_overrides
from nissl.runs.search_space import SearchSpec, read_spec
from nissl.runs.sweep_check import check_sweep, check_sweeps, checked_spec
from nissl.runs.sweep_export import wandb_sweep

TREE = ConfigTree(conf_dir())
QUICK = conf_dir() / "sweep/calcium_quick_lr.yaml"


def test_every_sweep_of_conf_is_able_to_run() -> None:
    count, problems = check_sweeps(TREE)
    assert problems == [] and count > 0


@pytest.mark.parametrize("name", ["optimisation", "augmentation", "architecture"])
def test_each_grid_of_the_graph_dino_paper_is_27_points_on_two_data_sets(name: str) -> None:
    spec = read_spec(conf_dir() / f"sweep/graph_dino_{name}.yaml", [])
    points = {tuple(sorted(point.items())) for point in spec.grid()}
    assert len(points) == spec.num_trials == 27 and spec.parts() == [("rat_s1", 0), ("allen", 0)]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["sweep.objective.metric=stimulus/accuracy_lenien"], "Did you mean 'stimulus/accuracy_lenient'?"),
        (["sweep.objective.direction=minimize"], "is better when larger"),
        (["sweep.pruner.metric=val/los"], "the task does not log 'val/los'"),
        (["sweep.space.task.optimizer.lrr={choices: [1]}"], "there is no key"),
        (["sweep.datasets.dim=[dataset.photon=3]"], "dataset.photons"),
        (["sweep.space={task.schedule: {choices: [cosine, 3]}}"], "expects"),
    ],
)
def test_a_search_that_cannot_run_is_refused_before_its_first_training(overrides: list[str], says: str) -> None:
    with pytest.raises(ValueError) as error:
        checked_spec("calcium_quick_lr", overrides)
    assert says in str(error.value)


def test_every_point_of_a_grid_is_checked() -> None:
    space = {"task.schedule": {"choices": ["cosine", "constant"]}, "model._target_": {"choices": ["nissl.models.x.Y"]}}
    spec = read_spec(QUICK, ["sweep.sampler.name=grid", f"sweep.space={space}", "sweep.datasets=null"])
    assert "nissl.models.x" in str(check_sweep(spec, TREE)[0])


def sweep_of(space: dict[str, Any], **values: Any) -> dict[str, Any]:
    objective = {"metric": "val/loss/last", "direction": "minimize"}
    spec = SearchSpec(name="s", base=["experiment=x"], space=space, objective=objective, **values)
    parsed = yaml.safe_load(wandb_sweep(spec))
    assert isinstance(parsed, dict)
    return parsed


def test_the_wandb_sweep_has_the_keys_and_ranges_of_the_search() -> None:
    space = {
        "lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "p": {"low": 0.0, "high": 0.5},
        "depth": {"low": 2, "high": 9},
        "width": {"low": 8, "high": 64, "step": 8},
        "shape": {"choices": [None, True, [1, 2], "a", 3]},
    }
    made = sweep_of(space, trials=7, seeds=[4, 5], datasets={"a": ["dataset=a"], "b": ["dataset=b"]})
    assert made["parameters"] == {
        "lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
        "p": {"distribution": "uniform", "min": 0.0, "max": 0.5},
        "depth": {"distribution": "int_uniform", "min": 2, "max": 9},
        "width": {"distribution": "q_uniform", "min": 8, "max": 64, "q": 8},
        "shape": {"values": ["null", "true", "[1,2]", "a", 3]},
        "dataset": {"values": ["a", "b"]},
        "seed": {"values": [4, 5]},
    }
    assert made["method"] == "bayes" and made["metric"] == {"name": "val/loss/last", "goal": "minimize"}
    assert made["run_cap"] == 28


def test_a_wandb_agent_would_start_a_valid_training() -> None:
    made = yaml.safe_load(wandb_sweep(read_spec(QUICK, [])))
    drawn = {key: {"value": axis.get("min", axis.get("values", [0])[0])} for key, axis in made["parameters"].items()}
    # What wandb's agent makes of `command` and one point.
    words = create_sweep_command(made["command"])
    arguments = create_sweep_command_args({"args": drawn})["args_no_hyphens"]
    assert words[0] == "/usr/bin/env" or words[0] == "${env}"
    overrides = [word for word in words[3:] if not word.startswith("$")] + arguments
    composed = TREE.compose("train", parse_overrides(overrides))
    assert composed.values["task"]["optimizer"]["lr"] == 3e-4 and list(composed.values["logger"]) == ["wandb"]


def test_data_sets_that_differ_in_several_keys_cannot_go_to_wandb() -> None:
    with pytest.raises(ValueError, match="wandb varies one key at a time"):
        sweep_of({"x": {"choices": [1]}}, trials=1, datasets={"a": ["x=1", "y=2"]})


def test_a_sweep_may_be_a_file_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(QUICK.read_text())
    assert checked_spec(str(tmp_path / "mine.yaml"), []).name == "mine"
