import json
from pathlib import Path
from textwrap import dedent
from types import ModuleType

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from nissl.runs import foreign
from nissl.runs.foreign import import_checkpoint
from nissl.runs.signatures import Signature


class Net(torch.nn.Linear):
    def __init__(self, width: int) -> None:
        super().__init__(width, 1)


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model `toy` whose checkpoints are torch files of {"w", "b"}."""
    (tmp_path / "conf/model").mkdir(parents=True)
    (tmp_path / "conf/model/toy.yaml").write_text("_target_: nissl.models.toy.Net\nwidth: 2\n")

    def import_weights(path: Path) -> tuple[dict, dict, dict]:
        raw = torch.load(path, weights_only=True)
        return {"weight": raw["w"], "bias": raw["b"].numpy()}, {"width": raw["w"].shape[1]}, {"source": "a paper"}

    module = ModuleType("nissl.models.toy")
    module.Net, module.import_weights = Net, import_weights  # type: ignore[attr-defined]
    monkeypatch.setattr(foreign.importlib, "import_module", lambda name: module)  # type: ignore[attr-defined]
    monkeypatch.setattr(foreign, "signature", lambda target: Signature("toy.py:1", {}, False))
    return tmp_path / "conf"


def save(path: Path, **tensors: torch.Tensor) -> Path:
    torch.save(tensors, path)
    return path


def test_a_checkpoint_becomes_safetensors_with_its_architecture(conf: Path, tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "a.pt", w=torch.tensor([[1.0, 2.0, 3.0]]), b=torch.tensor([4.0]))
    done = import_checkpoint("toy", checkpoint, tmp_path / "new/toy.safetensors", conf)
    assert (done.num_tensors, done.num_parameters, done.architecture) == (2, 4, {"width": 3})
    with safe_open(done.path, framework="pt") as opened:
        assert opened.get_tensor("weight").tolist() == [[1.0, 2.0, 3.0]]
        metadata = opened.metadata()
    assert json.loads(metadata["architecture"]) == {"width": 3} and metadata["source"] == "a paper"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["toy.safetensors"]


@pytest.mark.parametrize(
    ("model", "file", "out", "says"),
    [
        ("tyo", "a.pt", "x.safetensors", "did you mean 'toy'"),
        ("toy", "lost.pt", "x.safetensors", "neither a file of that name nor a TensorFlow prefix"),
        ("toy", "text.pt", "x.safetensors", "is not a checkpoint that nissl.models.toy can read"),
        ("toy", "wrong.pt", "x.safetensors", "does not fit nissl.models.toy.Net"),
        ("toy", "a.pt", "x.pt", "ends in .safetensors"),
    ],
)
def test_what_cannot_be_imported_says_why_and_writes_nothing(
    conf: Path, tmp_path: Path, model: str, file: str, out: str, says: str
) -> None:
    save(tmp_path / "a.pt", w=torch.ones(1, 2), b=torch.ones(1))
    save(tmp_path / "wrong.pt", w=torch.ones(3, 2), b=torch.ones(1))
    (tmp_path / "text.pt").write_text("not a checkpoint")
    with pytest.raises(ValueError, match=says):
        import_checkpoint(model, tmp_path / file, tmp_path / "out" / out, conf)
    assert not list(tmp_path.glob("out/*"))


def test_a_pickled_object_is_not_run(conf: Path, tmp_path: Path) -> None:
    class Canary:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "canary",)

    torch.save({"w": Canary()}, tmp_path / "bad.pt")
    with pytest.raises(ValueError, match="nothing of it was run"):
        import_checkpoint("toy", tmp_path / "bad.pt", tmp_path / "x.safetensors", conf)
    assert not (tmp_path / "canary").exists()


def test_a_model_without_a_reader_says_so(conf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = save(tmp_path / "a.pt", w=torch.ones(1, 2), b=torch.ones(1))
    empty = ModuleType("nissl.models.toy")
    monkeypatch.setattr(foreign.importlib, "import_module", lambda name: empty)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="it offers no import_weights"):
        import_checkpoint("toy", checkpoint, tmp_path / "x.safetensors", conf)


def test_a_model_may_begin_with_weights_of_ours(conf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "small.safetensors"
    save_file({"weight": torch.ones(1, 2)}, file, {"architecture": '{"width": 2}', "source": "run first"})

    def begin_from(state: dict, known: dict, wanted: dict) -> tuple[dict, dict]:
        times = wanted["width"] // known["width"]
        return {"weight": state["weight"].repeat(1, times), "bias": torch.zeros(1)}, wanted

    module = ModuleType("nissl.models.toy")
    module.Net, module.begin_from = Net, begin_from  # type: ignore[attr-defined]
    monkeypatch.setattr(foreign.importlib, "import_module", lambda name: module)  # type: ignore[attr-defined]
    done = import_checkpoint("toy", file, tmp_path / "x.safetensors", conf, {"width": 4})
    assert done.architecture == {"width": 4}
    with safe_open(done.path, framework="pt") as opened:
        assert opened.metadata()["source"] == "begun from run first"
    save_file({"weight": torch.ones(1, 2)}, file)
    with pytest.raises(ValueError, match="states no architecture: make it with"):
        import_checkpoint("toy", file, tmp_path / "x.safetensors", conf)
    del module.begin_from
    with pytest.raises(ValueError, match="cannot read small.safetensors: it offers no begin_from"):
        import_checkpoint("toy", file, tmp_path / "x.safetensors", conf)


def test_a_target_outside_the_allowed_packages_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/bad.yaml").write_text(dedent("_target_: os.system\n"))
    with pytest.raises(ValueError, match="'os.system' is not allowed"):
        import_checkpoint("bad", tmp_path / "model/bad.yaml", tmp_path / "x.safetensors", tmp_path)


def test_what_a_checkpoint_does_not_hold_is_set_by_hand_and_must_still_fit(conf: Path, tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "a.pt", w=torch.tensor([[1.0, 2.0, 3.0]]), b=torch.tensor([4.0]))
    done = import_checkpoint("toy", checkpoint, tmp_path / "toy.safetensors", conf, {"width": 3})
    assert done.architecture == {"width": 3}
    with pytest.raises(ValueError, match="does not fit"):
        import_checkpoint("toy", checkpoint, tmp_path / "toy.safetensors", conf, {"width": 2})
    with pytest.raises(ValueError, match="--set widht=3: toy is built from width; did you mean 'width'"):
        import_checkpoint("toy", checkpoint, tmp_path / "toy.safetensors", conf, {"widht": 3})


def test_a_value_of_the_wrong_kind_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    conf = Path(__file__).parents[2] / "conf"
    with pytest.raises(ValueError, match="--set depth=nine: expects int"):
        import_checkpoint("ffn_packed", tmp_path / "a.safetensors", tmp_path / "x.safetensors", conf, {"depth": "nine"})
