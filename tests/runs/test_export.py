import json
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors import safe_open

from nissl.models.ffn import FFN
from nissl.runs import evaluation, export
from nissl.runs.export import export_run, onnx_of

ARCHITECTURE = {
    "fov_zyx": [9, 9, 9], "deltas_zyx": [2, 2, 2], "depth": 2, "features": 4, "init_activation": 0.95,
    "pad_value": 0.5, "move_threshold": 0.6, "norm": "group", "init": "truncated_normal",
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder whose trained task holds a small flood-filling network."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("format: 1\n")
    torch.manual_seed(0)
    task = torch.nn.Module()
    task.model = FFN(**ARCHITECTURE)  # type: ignore[arg-type]
    cfg = OmegaConf.create(
        {"model": {"_target_": "nissl.models.ffn.FFN", **ARCHITECTURE, "weights": "old.safetensors"}}
    )
    monkeypatch.setattr(export, "compose_evaluation", lambda overrides: cfg)
    monkeypatch.setattr(evaluation, "trained_task", lambda cfg: task)
    return tmp_path / "run"


def test_exported_weights_carry_their_architecture_and_load_again(run: Path, tmp_path: Path) -> None:
    done = export_run(run, tmp_path / "new/net.safetensors", "best")
    assert done.architecture == ARCHITECTURE
    with safe_open(done.path, framework="pt") as opened:
        assert (
            json.loads(opened.metadata()["architecture"]) == ARCHITECTURE and opened.metadata()["source"] == "run run"
        )
        state = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    FFN(**ARCHITECTURE).load_state_dict(state)  # type: ignore[arg-type]
    assert done.num_parameters == sum(t.numel() for t in state.values())
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["net.safetensors"]


def test_onnx_gives_the_same_logits_at_any_batch_size(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
    openvino = pytest.importorskip("openvino", reason="nothing installed here reads ONNX")
    done = export_run(run, tmp_path / "net.onnx", "best")
    program = openvino.Core().compile_model(str(done.path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    network = evaluation.trained_task(None).model.eval()
    for batch in (1, 3):
        image, seed = torch.randn(2, batch, 1, 9, 9, 9).unbind()
        with torch.no_grad():
            expected = network(image, seed).numpy()
        found = program({"image": image.numpy(), "seed_logits": seed.numpy()})[0]
        assert found.shape == expected.shape and np.abs(found - expected).max() < 1e-4


def test_what_cannot_be_exported_is_said(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
    with pytest.raises(ValueError, match="must end in .safetensors or .onnx"):
        export_run(run, tmp_path / "net.pt", "best")
    with pytest.raises(ValueError, match="is no run folder"):
        export_run(tmp_path, tmp_path / "net.onnx", "best")
    with pytest.raises(ValueError, match="give one --input per argument"):
        onnx_of(torch.nn.Linear(3, 1), [])
    with pytest.raises(ValueError, match="takes 1 inputs, 2 --input"):
        onnx_of(torch.nn.Linear(3, 1), [(3,), (3,)])
