"""The fast form against the definition, and its limits."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import nissl.models.ac_attention as module
from nissl.models.ac_attention import ACAttention


def slow_attention(layer: ACAttention, x: Tensor, adjacency: Tensor) -> Tensor:
    """Written from the definition, head by head."""
    b, n, d = x.shape
    q, k, v = layer.qkv(x).view(b, n, 3, layer.num_heads, d).unbind(2)
    trade_off = layer.trade_off(x).exp()
    heads = []
    for h in range(layer.num_heads):
        scores = (
            trade_off[..., :1] * (q[:, :, h] @ k[:, :, h].transpose(1, 2)) / d**0.5 + trade_off[..., 1:] * adjacency
        )
        heads.append(torch.softmax(scores, dim=-1) @ v[:, :, h])
    return layer.out(torch.cat(heads, dim=-1))


def random_input(b: int = 3, n: int = 12, d: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(b, n, d, generator=generator, dtype=torch.float64)
    a = (torch.rand(b, n, n, generator=generator) < 0.2).double()
    a = ((a + a.transpose(1, 2)) > 0).double()
    a.diagonal(dim1=1, dim2=2).fill_(1.0)
    return x, a


def fixed_trade_off(layer: ACAttention, local: float, neighbours: float) -> None:
    layer.use_exp = False
    torch.nn.init.zeros_(layer.trade_off.weight)
    with torch.no_grad():
        layer.trade_off.bias.copy_(torch.tensor([local, neighbours]))


@pytest.fixture
def layer() -> ACAttention:
    torch.manual_seed(0)
    return ACAttention(8, 4).double()


@pytest.mark.parametrize("block_floats", [2**17, 5 * 4 * 12])
@pytest.mark.parametrize("padded", [False, True])
def test_values_and_gradients_equal_the_definition(
    layer: ACAttention, padded: bool, block_floats: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK_FLOATS", block_floats)  # five query nodes at a time, the last block smaller
    x, adjacency = random_input()
    nodes = 9 if padded else 12
    padding = (torch.arange(12) >= nodes).expand(3, -1) if padded else None
    results = []
    for slow in (False, True):
        layer.zero_grad()
        inner = x.clone().requires_grad_()
        if slow:  # never sees the padding
            out = slow_attention(layer, inner[:, :nodes], adjacency[:, :nodes, :nodes])
        else:
            out = layer(inner, adjacency, padding)[:, :nodes]
        out.square().sum().backward()
        results.append([out.detach(), inner.grad, *[p.grad for p in layer.parameters()]])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        fused = layer(x, adjacency, padding)[:, :nodes]
    torch.testing.assert_close(fused, results[1][0], rtol=1e-10, atol=1e-10)


def test_the_form_for_other_devices_has_the_same_gradients(layer: ACAttention, monkeypatch: pytest.MonkeyPatch) -> None:
    x, adjacency = random_input()
    grads = []
    for blockwise in (True, False):
        if not blockwise:
            monkeypatch.setattr(
                module, "_attend_blockwise", lambda q, k, v, *rest: module._attend(q, k, v, module._mask(*rest))
            )
        layer.zero_grad()
        inner = x.clone().requires_grad_()
        layer(inner, adjacency).square().sum().backward()
        grads.append([inner.grad, *[p.grad for p in layer.parameters()]])
    for ours, plain in zip(*grads, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)


def test_weights_that_underflow_have_their_gradients_too(layer: ACAttention, monkeypatch: pytest.MonkeyPatch) -> None:
    x, adjacency = random_input()
    fixed_trade_off(layer, 5000.0, 1.0)
    grads = []
    for in_full in (False, True):  # as it is, and with the logarithm of the sum always taken in full
        if in_full:
            monkeypatch.setattr(module, "_log_sum", lambda scores, _: torch.logsumexp(scores, dim=-1, keepdim=True))
        inner = x.clone().requires_grad_()
        layer(inner, adjacency).square().sum().backward()
        grads.append(inner.grad)
    assert bool(torch.stack(grads).isfinite().all())
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-6, atol=1e-6)


def test_under_autocast_the_result_is_close_and_gradients_reach_everything(layer: ACAttention) -> None:
    layer.float()
    x, adjacency = (t.float() for t in random_input())
    plain = layer(x, adjacency)
    with torch.autocast("cpu", torch.bfloat16):
        rough = layer(x.requires_grad_(), adjacency)
    rough.float().square().sum().backward()
    torch.testing.assert_close(rough.float(), plain, rtol=0.05, atol=0.05)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


def test_with_g_0_and_l_1_it_is_plain_attention(layer: ACAttention) -> None:
    x, adjacency = random_input()
    fixed_trade_off(layer, 1.0, 0.0)
    q, k, v = layer.qkv(x).view(3, 12, 3, 4, 8).permute(2, 0, 3, 1, 4)
    plain = layer.out(scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(3, 12, -1))
    torch.testing.assert_close(layer(x, adjacency), plain)


def test_with_a_large_g_and_equal_scores_it_averages_neighbours_and_self(layer: ACAttention) -> None:
    x, adjacency = random_input()
    fixed_trade_off(layer, 0.0, 50.0)
    mean = (adjacency / adjacency.sum(dim=-1, keepdim=True)) @ x
    torch.testing.assert_close(layer(x, adjacency), layer.out(layer.qkv(mean)[..., 64:]))


def test_with_l_0_and_g_0_it_averages_all_nodes(layer: ACAttention) -> None:
    x, adjacency = random_input()
    fixed_trade_off(layer, 0.0, 0.0)
    mean = x.mean(dim=1, keepdim=True).expand_as(x)
    torch.testing.assert_close(layer(x, adjacency), layer.out(layer.qkv(mean)[..., 64:]))


def test_weights_on_a_path_of_three_by_hand() -> None:
    """Equal scores, g = ln 2: each node gives twice the weight to neighbours and itself."""
    layer = ACAttention(3, 1).double()
    fixed_trade_off(layer, 0.0, float(torch.log(torch.tensor(2.0))))
    with torch.no_grad():
        layer.qkv.weight.copy_(torch.cat([torch.zeros(6, 3), torch.eye(3)]))  # values are the input
        layer.out.weight.copy_(torch.eye(3))
        layer.out.bias.zero_()
    path = torch.tensor([[[1.0, 1, 0], [1, 1, 1], [0, 1, 1]]], dtype=torch.float64)
    expected = torch.tensor([[[0.4, 0.4, 0.2], [1 / 3, 1 / 3, 1 / 3], [0.2, 0.4, 0.4]]], dtype=torch.float64)
    torch.testing.assert_close(layer(torch.eye(3, dtype=torch.float64)[None], path), expected, atol=1e-7, rtol=0)


def test_the_trade_off_starts_near_1_and_gets_gradients() -> None:
    torch.manual_seed(0)
    layer = ACAttention(32, 8)
    x = torch.nn.functional.layer_norm(torch.randn(4, 50, 32), (32,))
    trade_off = layer.trade_off(x).exp().detach()
    assert 0.6 < float(trade_off.min()) and float(trade_off.max()) < 1.7
    layer(x, torch.eye(50).expand(4, -1, -1)).square().sum().backward()
    assert layer.trade_off.weight.grad is not None and layer.trade_off.weight.grad.abs().sum() > 0
    assert layer.trade_off.bias.grad is not None and bool((layer.trade_off.bias.grad != 0).all())
