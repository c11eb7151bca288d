import pickle
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import nn

from nissl.runs.compose import instantiate, resolve, safetensors_metadata
from nissl.runs.weights import chosen_checkpoint, load_checkpoint, load_into


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (open, (str(self.path), "w"))  # type: ignore[return-value]


def test_a_checkpoint_with_pickled_code_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    torch.save({"state_dict": Canary(canary)}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match="was refused"):
        load_checkpoint(tmp_path / "evil.ckpt")
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps(Canary(canary), protocol=2))
    with pytest.raises(ValueError, match="was refused"):
        load_checkpoint(tmp_path / "plain.ckpt")
    assert not canary.exists()


@pytest.mark.parametrize(
    "target", ["os.system", "subprocess.Popen", "nissl.runs.provenance.subprocess.Popen", "nissl.runs.folder.lock"]
)
def test_a_target_that_leads_outside_the_allowed_packages_is_refused(target: str) -> None:
    with pytest.raises((ValueError, TypeError), match="refused|class"):
        instantiate(OmegaConf.create({"model": {"_target_": target, "args": "touch canary"}}))


def test_weights_that_do_not_fit_are_named() -> None:
    model = nn.Linear(2, 3)
    with pytest.raises(ValueError, match=r"missing \['bias'\], unexpected \['extra'\], shapes \['weight is \(3, 4\)"):
        load_into(model, {"weight": torch.zeros(3, 4), "extra": torch.zeros(1)}, "file")


def test_the_best_checkpoint_is_the_last_where_no_metric_chose_one(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match="holds no checkpoint"):
        chosen_checkpoint(tmp_path, "best")
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    assert chosen_checkpoint(tmp_path, "best").name == "last.ckpt"
    (tmp_path / "checkpoints" / "best.ckpt").touch()
    assert chosen_checkpoint(tmp_path, "best").name == "best.ckpt"
    with pytest.raises(ValueError, match="best or last, came 'first'"):
        chosen_checkpoint(tmp_path, "first")


def test_asking_for_another_architecture_than_the_weights_have_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "w.safetensors"
    save_file({"weight": torch.zeros(1)}, file, metadata={"architecture": '{"deltas_zyx": [8, 8, 8]}'})
    cfg = OmegaConf.create({"model": {"_target_": "x", "deltas_zyx": [4, 4, 4], "weights": str(file)}})
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "model.deltas_zyx=[4,4,4]"])
    with pytest.raises(ValueError, match=r"model.deltas_zyx=\[4, 4, 4\] is asked for, .* a network with \[8, 8, 8\]"):
        resolve(cfg)
    monkeypatch.setattr(sys, "argv", ["evaluate.py"])  # what a config file says gives way
    assert resolve(cfg).model.deltas_zyx == [8, 8, 8]


def test_imported_weights_bring_their_architecture(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save_file({"weight": torch.zeros(1)}, file, metadata={"architecture": '{"depth": 12}'})
    assert safetensors_metadata(file)["architecture"] == '{"depth": 12}'
    cfg = resolve(OmegaConf.create({"model": {"_target_": "x", "depth": 3, "weights": str(file)}}))
    assert cfg.model.depth == 12
    with pytest.raises(ValueError, match="another kind of model: y takes no depth"):
        resolve(OmegaConf.create({"model": {"_target_": "y", "weights": str(file)}}))


def test_a_file_that_is_no_safetensors_file_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"\x80\x02}q\x00." * 4)
    for path, message in ((tmp_path / "w.safetensors", "not a safetensors file"), (tmp_path / "none", "no file")):
        with pytest.raises(ValueError, match=message):
            safetensors_metadata(path)
