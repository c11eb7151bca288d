import copy
import importlib.util
import logging
import re
import shutil

import numpy as np
import pytest
import torch
from flood_fill.test_segmenter import segmenter

import nissl.flood_fill.segmenter
from nissl.flood_fill.backends import running
from nissl.flood_fill.quantisation import differences, quantised_network
from nissl.models.ffn import FFN
from nissl.volumes.annotated import AnnotatedVolume

FOV = (9, 7, 5)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    made = FFN(FOV, (2, 2, 1), 2, 4, 0.95, 0.05, 0.9, None, "he").eval()
    torch.nn.init.normal_(made.head.weight)  # it starts at zero, and every answer would be the seed
    return made


def views(batch, fov=FOV):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, 1, *fov, generator=generator) for _ in range(2)]


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


def patches(count, fov=FOV):
    return [tuple(view[i : i + 1].numpy() for view in views(count, fov)) for i in range(count)]


@pytest.fixture(scope="module")
def wide():
    """Enough channels for 8-bit kernels."""
    torch.manual_seed(0)
    made = FFN((9, 9, 9), (2, 2, 2), 2, 8, 0.95, 0.05, 0.9, None, "he").eval()
    torch.nn.init.uniform_(made.head.weight, 0.0, 0.2)  # it grows, and its logits stay small
    return made


def test_int8_is_calibrated_on_fields_of_view_that_float32_saw_and_stays_near_it(wide, caplog):
    pytest.importorskip("nncf", reason="the extra int8 is not installed")
    raw = np.random.default_rng(0).integers(0, 255, (16, 16, 16)).astype(np.uint8)
    volume = AnnotatedVolume("noise", raw, (10.0, 10.0, 10.0), None, None, (1, 1, 1), 128.0, 60.0)
    made = segmenter(backend="openvino", precision="int8", calibration_moves=12, reflect_border=True)
    nissl.flood_fill.segmenter._quantised.clear()
    with caplog.at_level(logging.INFO), made.running(wide, [volume]) as call:
        image = torch.from_numpy((raw[None, None, 3:12, 3:12, 3:12] - 128.0) / 60.0).float()
        seed = torch.full_like(image, -2.94)
        seed[0, 0, 4, 4, 4] = 2.94
        found = call(image, seed)
        with running(wide, "eager", "float32", (9, 9, 9)) as exact, torch.no_grad():
            expected = exact(image, seed)
        apart = differences(call, exact, [(image.numpy(), seed.numpy())])
    assert found.dtype == torch.float32 and not torch.equal(found, expected)
    assert (found - expected).square().mean().sqrt() < 0.1 * (expected - seed).std()
    assert apart["rms_logit"] == pytest.approx(float((found - expected).square().mean().sqrt()), rel=1e-3)
    assert re.search(r"int8 against float32 on [1-4] patches", caplog.text), "a third of at most 12 moves"
    with made.running(wide, [volume]) as again:
        assert again is call  # one network for all stages of a volume


def test_int8_is_not_cut_off_where_one_field_of_view_is_answered_far_more_strongly_than_the_others(wide):
    """As the first of an object is; a mean of ranges would cut it off."""
    pytest.importorskip("nncf", reason="the extra int8 is not installed")
    seen = [(0.2 * image, 0.2 * seed) for image, seed in patches(12, (9, 9, 9))]
    seen[3] = tuple(20 * view for view in seen[3])
    call = quantised_network(wide, (9, 9, 9), seen)
    image, seed = (torch.from_numpy(view) for view in seen[3])
    with running(wide, "eager", "float32", (9, 9, 9)) as exact, torch.no_grad():
        expected = exact(image, seed) - seed
    found = call(image, seed) - seed
    assert found.max() > 0.95 * expected.max()
    assert (found - expected).square().mean().sqrt() < 0.05 * expected.std()


def test_int8_says_what_it_needs(wide, monkeypatch):
    with pytest.raises(ValueError, match="precision=int8 needs backend=openvino"):
        segmenter(precision="int8")
    with pytest.raises(ValueError, match="at least 3 moves; it made 2"):
        quantised_network(wide, (9, 9, 9), patches(2))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs openvino and nncf: pip install nissl\[int8\]"):
        quantised_network(wide, (9, 9, 9), patches(3))


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler, and there is none here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own modules, which compiling imports
def test_a_compiled_network_answers_as_torch_does(network):
    try:
        found = answers(network, "compiled", "float32", 2)
    except torch._dynamo.exc.BackendCompilerFailed as error:
        pytest.skip(f"torch.compile does not work here: {error}")
    assert torch.allclose(found, answers(network, "eager", "float32", 2), atol=1e-5)


def test_a_cuda_graph_needs_a_cuda_device(network):
    with pytest.raises(ValueError, match="backend=cuda_graph needs a network on a CUDA device, came cpu"):
        answers(network, "cuda_graph", "float32", 1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_graph_answers_as_torch_does(network):
    own = copy.deepcopy(network).cuda()
    with torch.no_grad(), running(own, "cuda_graph", "float32", FOV) as call:
        for batch in (1, 3, 1):
            image, seed = (view.cuda() for view in views(batch))
            assert torch.allclose(call(image, seed), own(image, seed), atol=1e-5)
