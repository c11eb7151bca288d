import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import nissl.runs.validate as validation
from nissl.runs.origins import ConfigTree, parse_overrides
from nissl.runs.problems import ConfigError
from nissl.runs.validate import check_command_line, check_overrides, grid_points, validate, validate_all

GOOD = ["experiment=first", "dataset.path=conf/train.yaml"]
HEAVY = ("torch", "torch_geometric", "pytorch_lightning", "sklearn", "matplotlib", "wandb", "optuna")


def problems(tree: ConfigTree, *overrides: str, root: str = "train", multirun: bool = False) -> list[str]:
    return [str(problem) for problem in check_overrides(root, [*GOOD, *overrides], tree, multirun)]


def only(tree: ConfigTree, *overrides: str) -> str:
    found = problems(tree, *overrides)
    assert len(found) == 1, found
    return found[0]


def test_a_good_configuration_has_no_problem(tree: ConfigTree) -> None:
    assert problems(tree) == []
    assert problems(tree, "model=bare", "evaluator=[]", "+trainer.max_steps=3", "task.optimizer.lr=1") == []


def test_all_missing_values_are_listed_at_once(tree: ConfigTree) -> None:
    found = [str(problem) for problem in check_overrides("train", [], tree)]
    assert any("no dataset is chosen" in text and "dataset=<option>; there are: toy" in text for text in found)
    assert any("conf/train.yaml:13: 'loader.batch_size' has no value" in text for text in found)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("modle=net", "Did you mean 'model' (conf/train.yaml:4)?"),
        ("model=nett", "Did you mean 'model=net' (conf/model/net.yaml:1)?"),
        ("trainer.max_epoch=1", "Did you mean 'trainer.max_epochs' (conf/trainer/cpu.yaml:2)?"),
        ("model.lr=3", "Did you mean 'task.optimizer.lr' (conf/task/learn.yaml:5)?"),
        ("trainer.profiler=simple", "add it: +trainer.profiler=<value>"),
        ("++task.temprature=1", "Did you mean 'task.temperature' (conf/task/learn.yaml:6)?"),
        ("++task.nonsense=1", "It takes: optimizer, temperature (nissl/tasks/learn.py:1)."),
        ("+task.optimizer.learning=1", "'learning' is no argument of torch.optim.AdamW"),
        ("+sede=1", "Did you mean 'seed'?"),
        ("+loader.shuffle=true", "'shuffle' is no argument of nissl.datasets.datamodule.DataModule"),
        ("+evaluator.far.k=3", "Choose it: evaluator=[...,far]"),
        ("+model.depth=3", "Leave out the +: model.depth=3"),
        ("data/set=3", "no group 'data/set'"),
        ("seed=1,2", "Add -m for a grid"),
        ("~trainer.max_time", "is null, which Hydra cannot delete"),
        ("~trainer.max_tmie", "Did you mean 'trainer.max_time'"),
        ("evaluator=null", "To choose none, write evaluator=[]"),
        ("task.model=3", "there is no key 'task.model'"),
        ("++task.model=3", "is passed by the program itself"),
        ("a b", "Write key=value"),
    ],
)
def test_an_override_that_leads_nowhere_names_what_was_meant(tree: ConfigTree, override: str, says: str) -> None:
    assert says in only(tree, override)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model.depth=deep", "'model.depth' expects int; came 'deep' (str)"),
        ("model.depth=2.5", "expects int; came 2.5 (float)"),
        ("model.depth=true", "expects int; came True (bool)"),
        ("model.depth=null", "expects int; came None (null)"),
        ("model.width=[1]", "expects int | None; came [1] (a list)"),
        ("+model.kind=c", "expects Literal['a', 'b']"),
        ("dataset.crop_zyx=[8,8]", "expects tuple[int, int, int]"),
        ("task.optimizer.lr=fast", "expects float | Tensor"),
        ("task.temperature=hot", "expects float"),
        ("loader.batch_size=many", "expects int"),
        ("seed=first", "'seed' is a whole number"),
        ("weights_to_evaluate=worst", "one of best, last"),
    ],
)
def test_a_value_of_the_wrong_type_says_what_is_expected(tree: ConfigTree, override: str, says: str) -> None:
    assert says in only(tree, override)


@pytest.mark.parametrize("override", ["model.depth=4", "model.width=null", "+model.kind=b", "task.temperature=1"])
def test_a_value_of_the_right_type_passes(tree: ConfigTree, override: str) -> None:
    assert problems(tree, override) == []


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("os.system", "'os.system' is not allowed: only nissl., torch.optim."),
        ("torch.hub.load", "is not allowed"),
        ("nissl.evaluators.near.os", "there is no class 'os'"),
        ("nissl.models.nett.Net", "Did you mean 'nissl.models.net'?"),
        ("nissl.models.net.Nett", "Did you mean 'nissl.models.net.Net'?"),
    ],
)
def test_only_classes_of_the_allowed_packages_are_targets(tree: ConfigTree, target: str, says: str) -> None:
    assert says in only(tree, f"model._target_={target}")


def test_a_class_reached_through_an_import_must_live_in_an_allowed_package(tree: ConfigTree) -> None:
    (tree.folder.parent / "nissl/models/net.py").write_text("from subprocess import Popen\n")
    assert "leads to subprocess.Popen" in only(tree, "model._target_=nissl.models.net.Popen")


def test_a_missing_argument_is_named_with_the_class_that_needs_it(tree: ConfigTree) -> None:
    text = only(tree, "~dataset.num_classes", "model.depth=3")
    assert "needs 'num_classes'" in text and "nissl/datasets/toy.py:1" in text


def test_a_missing_file_says_where_the_data_root_is(tree: ConfigTree) -> None:
    found = [str(problem) for problem in check_overrides("train", ["experiment=first"], tree)]
    assert len(found) == 1 and "there is no file /nowhere/toy.h5" in found[0] and "NISSL_DATA" in found[0]
    assert "there is no file lost.safetensors" in only(tree, "model.weights=lost.safetensors")


def test_a_reference_that_leads_nowhere_names_the_nearest_key(tree: ConfigTree) -> None:
    text = only(tree, "model.depth=${dataset.num_clases}")
    assert "cannot be resolved" in text and "Did you mean '${dataset.num_classes}'" in text


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("callbacks.checkpoint.monitor=val/los", "nobody logs 'val/los'\n      Did you mean 'val/loss'?"),
        ("callbacks.checkpoint.monitor=near/accuracy", "is better when larger; mode is min"),
        ("callbacks.checkpoint.mode=max", "is better when smaller; mode is max"),
    ],
)
def test_the_monitored_metric_is_one_that_somebody_logs(tree: ConfigTree, override: str, says: str) -> None:
    assert says in only(tree, override)


def test_a_metric_pattern_covers_its_names(tree: ConfigTree) -> None:
    assert problems(tree, "callbacks.checkpoint.monitor=val/recall_3", "callbacks.checkpoint.mode=max") == []


def test_an_evaluator_of_embeddings_needs_a_model_that_embeds(tree: ConfigTree) -> None:
    assert "needs a model with 'embed', which nissl.models.net.Bare has not" in only(tree, "model=bare")


def test_every_problem_of_a_command_line_is_reported_together(tree: ConfigTree) -> None:
    assert len(problems(tree, "modle=net", "trainer.max_epoch=1", "model.depth=deep", "trainer=cqu")) == 4


def test_every_point_of_a_grid_is_checked(tree: ConfigTree) -> None:
    assert problems(tree, "seed=0,1,2", "model=net,bare", "evaluator=[]", multirun=True) == []
    (text,) = problems(tree, "seed=0,1", "model.depth=1,two,3", multirun=True)
    assert "came 'two'" in text


def test_a_grid_is_the_product_of_its_values(tree: ConfigTree) -> None:
    points = list(grid_points(parse_overrides(["seed=1,2", "model=glob(*)", "trainer.max_epochs=range(1,3)"]), tree))
    assert len(points) == 2 * 2 * 2
    assert [str(item.input_line) for item in points[-1]] == ["seed=2", "model=net", "trainer.max_epochs=2"]


def test_an_interval_is_no_grid(tree: ConfigTree) -> None:
    with pytest.raises(ConfigError, match="List the values"):
        problems(tree, "task.temperature=interval(0,1)", multirun=True)


def test_experiments_may_not_invent_keys(tree: ConfigTree) -> None:
    with (tree.folder / "experiment/first.yaml").open("a") as file:
        file.write("questoin: typo\n")
    assert "conf/experiment/first.yaml:9: nothing reads 'questoin'\n      Did you mean 'question'?" in only(tree)


def test_a_wrong_defaults_list_names_its_line_and_the_nearest_option(tree: ConfigTree) -> None:
    (tree.folder / "experiment/first.yaml").write_text("# @package _global_\ndefaults:\n- override /modle: net\n")
    assert "conf/experiment/first.yaml:3: no group 'modle'\n      Did you mean 'model'?" in only(tree)


def test_broken_yaml_and_repeated_keys_name_their_line(tree: ConfigTree) -> None:
    (tree.folder / "model/net.yaml").write_text("_target_: nissl.models.net.Net\ndepth: [1\n")
    assert "conf/model/net.yaml:3: not valid YAML" in only(tree)
    fresh = ConfigTree(tree.folder)
    (tree.folder / "model/net.yaml").write_text("_target_: nissl.models.net.Net\ndepth: 1\ndepth: 2\n")
    assert "conf/model/net.yaml:3: 'depth' is written twice, first in line 2" in only(fresh)


def test_validate_raises_one_error_with_every_problem(tree: ConfigTree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "conf_dir", lambda: tree.folder)
    values = tree.compose("train", parse_overrides(GOOD)).values
    validate(OmegaConf.create(values))
    values["model"]["depth"], values["seed"] = "deep", "x"
    with pytest.raises(ConfigError, match="2 problems in this configuration") as raised:
        validate(OmegaConf.create(values))
    assert len(raised.value.problems) == 2


def test_the_command_line_is_checked_before_hydra(tree: ConfigTree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "conf_dir", lambda: tree.folder)
    check_command_line("train", ["-m", *GOOD, "seed=1,2"])
    check_command_line("train", ["--help"])
    check_command_line("train", ["--cfg", "job", "experiment=first"])
    with pytest.raises(ConfigError, match="seed=1,2: several values for one run"):
        check_command_line("train", [*GOOD, "seed=1,2"])
    with pytest.raises(ConfigError, match="trainer.max_epochs"):
        check_command_line("train", ["--cfg", "job", "experiment=first", "trainer.max_epoch=3"])


def test_an_evaluation_of_a_run_takes_the_runs_own_keys(tree: ConfigTree, tmp_path: Path) -> None:
    (tree.folder / "evaluate.yaml").write_text("defaults:\n- _self_\n- evaluator: null\nrun: null\nseed: 0\n")
    run = tmp_path / "runs/2026-01-01-abc"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("format: 1\nmodel:\n  depth: 3\n")

    def found(*overrides: str) -> list[str]:
        return [str(problem) for problem in check_overrides("evaluate", list(overrides), tree)]

    assert found(f"run={run}", "model.depth=4", "evaluator=[far]", "evaluator.far.k=9") == []
    assert "Did you mean 'model.depth' (runs/2026-01-01-abc/config.yaml)" in found(f"run={run}", "model.deph=4")[0]
    assert "'evaluator' has no option 'fra'" in found(f"run={run}", "evaluator=[fra]")[0]
    assert "Did you mean 'run=runs/2026-01-01-abc'?" in found("run=runs/2026-01-01-abd")[0]
    assert ["neither a run nor" in text for text in found("evaluator=[near]")] == [True, True]


def test_all_of_conf_is_checked_without_asking_for_data(tree: ConfigTree) -> None:
    count, found = validate_all(tree)
    # the experiment as a whole; what it does not use, by itself: model/bare and evaluator/far
    assert (count, found) == (3, [])


def test_a_file_that_no_experiment_uses_is_checked_too(tree: ConfigTree) -> None:
    (tree.folder / "evaluator/far.yaml").write_text("far:\n  _target_: nissl.evaluators.near.Near\n  kk: 3\n")
    _, found = validate_all(tree)
    assert [str(problem).split("\n")[0] for problem in found] == [
        "conf/evaluator/far.yaml:3: 'kk' is no argument of nissl.evaluators.near.Near"
    ]


def test_validation_imports_nothing_heavy_and_takes_under_two_seconds_for_all_of_conf() -> None:
    code = (
        "import sys, time\nfrom nissl.cli import main\nassert main(['validate']) == 0\n"
        f"heavy = [name for name in {HEAVY} if name in sys.modules]\n"
        "assert not heavy, heavy\nassert time.process_time() < 2, time.process_time()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
