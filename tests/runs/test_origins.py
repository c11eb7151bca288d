import pytest
from omegaconf import OmegaConf

from nissl.runs.origins import ConfigTree, all_keys, explain, parse_overrides, select
from nissl.runs.overrides import compose_checked
from nissl.runs.problems import ConfigError


def test_each_setter_of_a_key_is_shown_with_file_and_line_the_last_one_holding(tree: ConfigTree) -> None:
    composed = compose_checked("train", ["experiment=first", "model.width=32"], tree)
    assert explain(composed, "model.width") == [
        "model.width = 32",
        "     conf/model/net.yaml:3: 8",
        "     conf/experiment/first.yaml:8: 16",
        "  -> command line, model.width=32: 32",
    ]


def test_a_reference_is_shown_with_its_value(tree: ConfigTree) -> None:
    composed = compose_checked("train", ["experiment=first"], tree)
    assert explain(composed, "model.depth")[0] == "model.depth = 3    from ${dataset.num_classes}"


def test_a_section_is_explained_value_by_value(tree: ConfigTree) -> None:
    composed = compose_checked("train", ["experiment=first"], tree)
    assert explain(composed, "loader") == [
        "loader.batch_size = 4    conf/experiment/first.yaml:6",
        "loader.num_workers = 0    conf/train.yaml:14",
    ]


def test_explaining_an_unknown_key_names_the_nearest(tree: ConfigTree) -> None:
    composed = compose_checked("train", ["experiment=first"], tree)
    with pytest.raises(ConfigError, match=r"Did you mean 'model.width' \(conf/experiment/first.yaml:8\)"):
        explain(composed, "model.widht")
    with pytest.raises(ConfigError, match="Did you mean 'task.optimizer.lr'"):
        explain(composed, "lr")


def test_the_composition_is_hydras(tree: ConfigTree) -> None:
    from hydra import compose, initialize_config_dir

    for overrides in (
        ["experiment=first"],
        ["experiment=first", "model=bare", "evaluator=[near,far]", "model.depth=9", "+trainer.max_steps=4"],
        ["dataset=toy", "~callbacks", "++task.extra={a: 1}", "dataset.crop_zyx=[1,2,3]", "~trainer.max_epochs"],
    ):
        with initialize_config_dir(str(tree.folder), version_base="1.3"):
            expected = OmegaConf.to_container(compose("train", overrides=overrides))
        assert tree.compose("train", parse_overrides(overrides)).values == expected


def test_numbers_are_read_as_omegaconf_reads_them(tree: ConfigTree) -> None:
    assert select(tree.file("task/learn").values, "optimizer.lr") == 0.001
    (tree.folder / "odd.yaml").write_text("a: 2026-01-01\nb: 1e3\nc: 00:00:30:00\nd: yes\n")
    assert tree.file("odd").values == dict(OmegaConf.load(tree.folder / "odd.yaml"))


def test_a_list_of_a_missing_folder_is_an_error() -> None:
    from pathlib import Path

    with pytest.raises(ValueError, match="no configuration folder"):
        ConfigTree(Path("nowhere"))


def test_a_key_that_holds_a_dot_is_found() -> None:
    values = {"days": {"POD0": 1.0, "POD3.5": {"g": 1.7}}, "a": {"b": 1}, "a.b": {"c": 2}}
    assert [select(values, key) for key in ("days.POD3.5.g", "a.b.c")] == [1.7, 2]
    assert list(all_keys(values["days"])) == ["POD0", "POD3.5", "POD3.5.g"]
    with pytest.raises(KeyError, match="days.POD3"):
        select(values, "days.POD3")
