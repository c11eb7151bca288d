"""Every file of conf/ composes and validates; config, code and test carry one name."""

import os
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from nissl.runs.compose import compose_config, resolve
from nissl.runs.origins import ConfigTree, parse_overrides
from nissl.runs.problems import ConfigError
from nissl.runs.validate import check_command_line, validate, validate_all

ROOT = Path(__file__).parents[1]
TREE = ConfigTree(ROOT / "conf")
MIRRORED = ("model", "task", "evaluator")


def options(*groups: str) -> list[str]:
    return [f"{group}/{option}" for group in groups for option in TREE.groups.get(group, [])]


def test_everything_in_conf_is_valid() -> None:
    count, problems = validate_all(TREE)
    assert problems == [] and count > 0


@pytest.mark.parametrize("name", TREE.groups.get("experiment", []))
def test_an_experiment_composes_to_what_hydra_makes_of_it(name: str) -> None:
    overrides = [f"experiment={name}"]
    expected = OmegaConf.to_container(compose_config("train", overrides))
    assert TREE.compose("train", parse_overrides(overrides)).values == expected


@pytest.mark.parametrize("name", TREE.groups.get("experiment", []))
def test_an_experiment_asks_a_question_and_has_a_record(name: str) -> None:
    assert TREE.file(f"experiment/{name}").values.get("question")
    assert (ROOT / "experiments" / name / "README.md").exists()


def test_evaluators_chosen_anew_leave_out_the_experiments_own() -> None:
    overrides = ["experiment=graph_dino_quick", "evaluator=[knn]"]
    check_command_line("train", overrides)
    validate(compose_config("train", overrides))
    assert list(resolve(compose_config("train", overrides)).evaluator) == ["knn"]
    with pytest.raises(ConfigError, match="has arguments but was not chosen"):
        check_command_line("train", [*overrides, "+evaluator.gmm={max_components: 3}"])


def test_every_record_has_its_recipe() -> None:
    folder = ROOT / "experiments"
    records = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    without = set(records) - set(TREE.groups.get("experiment", []))
    for name in without:  # what a benchmark or a command of nissl measured; it has no configuration of its own
        text = (folder / name / "README.md").read_text()
        assert "python benchmarks/" in text or "nissl " in text, name


@pytest.mark.parametrize("name", options(*MIRRORED))
def test_config_code_and_test_carry_one_name(name: str) -> None:
    group, option = name.split("/")
    values = TREE.file(name).values
    node = values[option] if group == "evaluator" else values
    assert node["_target_"].rpartition(".")[0] == f"nissl.{group}s.{option}"
    assert (ROOT / f"tests/{group}s/test_{option}.py").exists()


@pytest.mark.parametrize("name", options("evaluator"))
def test_an_evaluators_config_has_its_own_name_as_only_key(name: str) -> None:
    assert list(TREE.file(name).values) == [name.split("/")[1]]


@pytest.mark.parametrize("name", options("dataset"))
def test_the_first_word_of_a_data_set_names_its_reader(name: str) -> None:
    values = TREE.compose(name, []).values["dataset"]
    word = name.split("/")[1].split("_")[0]
    assert values["_target_"].startswith(f"nissl.datasets.{word}")
    assert list((ROOT / "tests/datasets").glob(f"test_{word}*.py"))


@pytest.mark.parametrize("name", TREE.names)
def test_a_config_has_no_tuples_no_tabs_and_no_parent_defaults(name: str) -> None:
    text = (ROOT / "conf" / f"{name}.yaml").read_text()
    assert "!!python" not in text and "\t" not in text and "../" not in text


@pytest.mark.parametrize("name", options("dataset", "model", "task"))
def test_a_target_comes_first(name: str) -> None:
    values = TREE.file(name).values
    assert not values or "_target_" not in values or next(iter(values)) == "_target_"


def test_conf_is_yaml_for_other_programs_too() -> None:
    for folder, _, files in os.walk(ROOT / "conf"):
        for file in files:
            assert file.endswith(".yaml"), file
            yaml.safe_load((Path(folder) / file).read_text())
