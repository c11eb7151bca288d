import importlib.util

import pytest
import torch

from nissl.flood_fill.backends import running
from nissl.models.ffn import FFN

FOV = (9, 7, 5)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    made = FFN(FOV, (2, 2, 1), 2, 4, 0.95, 0.05, 0.9, None, "he").eval()
    torch.nn.init.normal_(made.head.weight)  # it starts at zero, and every answer would be the seed
    return made


def views(batch):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, 1, *FOV, generator=generator) for _ in range(2)]


def answers(network, backend, precision, batch):
    with torch.no_grad(), running(network, backend, precision, FOV) as call:
        return call(*views(batch))


@pytest.mark.parametrize("batch", [1, 3])
def test_openvino_answers_as_torch_does(network, batch):
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    found = answers(network, "openvino", "float32", batch)
    expected = answers(network, "eager", "float32", batch)
    assert found.shape == expected.shape and found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=1e-5)


def test_an_answer_of_openvino_is_not_overwritten_by_the_next(network):
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    image, seed = views(1)
    with running(network, "openvino", "float32", FOV) as call:
        first = call(image, seed)
        kept = first.clone()
        call(image + 1, seed)
    assert torch.equal(first, kept)


def test_bfloat16_stays_near_float32_and_returns_it(network):
    found, expected = (answers(network, "eager", precision, 2) for precision in ("bfloat16", "float32"))
    assert found.dtype == torch.float32 and not torch.equal(found, expected)
    assert (found - expected).abs().max() < 0.05


def test_without_openvino_the_message_says_what_to_do(network, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs OpenVINO: pip install nissl\[openvino\]"):
        answers(network, "openvino", "float32", 1)
