"""Adjacency-conditioned attention: self-attention that each node may shift towards its neighbours.

For node i and head h, with x the input of the layer and A the adjacency with ones on the diagonal:

    (l_i, g_i) = exp(W x_i + b)                                      two numbers per node, shared by all heads
    a_ij^h     = softmax_j( l_i (q_i^h . k_j^h) / sqrt(D) + g_i A_ij )
    out_i      = Wo concat_h( sum_j a_ij^h v_j^h ) + bo

g = 0, l = 1 is plain attention; a large g averages over neighbours and self. Every head works in all D features, so the
scale is D^-1/2 and Wo takes H * D.

Source: Weis et al. 2023, https://openreview.net/forum?id=ThhMzfrd6r; the code of marissaweis/ssl_neuron@0a292e7178.

Computed in an exact form that costs well under half. Since heads have the full D, the scores are x (Wq^h' Wk^h) x'
with a D x D matrix per head, so keys need no projection of their own; and Wo folds into the values, so the heads'
outputs are summed and not projected. A and g are never copied per head. With gradients on a CPU the softmax is made
block by block of query nodes, small enough to stay in the cache, and made again in the backward pass instead of being
stored (benchmarks/graph_dino.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

# B graphs, N nodes (with the CLS token), D features, H heads

BLOCK_FLOATS = 2**17  # softmax weights of a block of query nodes, 512 kB in float32: a part of a core's own cache


class ACAttention(nn.Module):
    """One attention layer.

    Args:
        dim: features D of a node.
        num_heads: H.
        use_exp: exp of the predicted trade-off, as published; else the prediction itself.
    """

    def __init__(self, dim: int, num_heads: int, use_exp: bool = True) -> None:
        super().__init__()
        self.dim, self.num_heads, self.use_exp = dim, num_heads, use_exp
        self.qkv = nn.Linear(dim, 3 * num_heads * dim, bias=False)  # feature order (q | k | v, head, dim)
        self.out = nn.Linear(num_heads * dim, dim)
        self.trade_off = nn.Linear(dim, 2)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.qkv.reset_parameters()
        self.out.reset_parameters()
        self.trade_off.reset_parameters()
        nn.init.uniform_(self.trade_off.weight, 0.0, 0.01)  # l and g start near 1, as in the reference

    def forward(self, x: Tensor, adjacency: Tensor, padding: Tensor | None = None) -> Tensor:
        """Mix the nodes.

        Args:
            x: (B, N, D).
            adjacency: (B, N, N) in {0, 1} with ones on the diagonal.
            padding: (B, N), true where there is no node; None where there is no padding.

        Returns:
            (B, N, D).
        """
        b, n, d = x.shape
        h = self.num_heads
        wq, wk, wv = self.qkv.weight.view(3, h, d, d)  # (H, D out, D in) each
        wo = self.out.weight.view(d, h, d)  # (D out, H, D in)
        score_weight = torch.einsum("hod,hoe->hed", wq, wk).reshape(h * d, d)
        value_weight = torch.einsum("ohk,hkd->hod", wo, wv).reshape(h * d, d)

        trade_off = self.trade_off(x)
        if self.use_exp:
            trade_off = trade_off.exp()
        local, neighbours = trade_off[..., :1], trade_off[..., 1:]
        q = linear(x * (local * d**-0.5), score_weight)  # (B, N, H D)
        v = linear(x, value_weight).view(b, n, h, d).transpose(1, 2)  # (B, H, N, D)
        mask = neighbours * adjacency  # (B, N, N)
        if padding is not None:
            mask = mask.masked_fill(padding[:, None, :], -torch.inf)
        if not torch.is_grad_enabled():
            mixed = _attend_fused(q.view(b, n, h, d), x, v, mask)
        elif x.device.type == "cpu":
            mixed = _BlockwiseAttention.apply(q.view(b, n, h, d), x, v, mask)
        else:
            mixed = _attend(q.view(b, n, h, d), x, v, mask)
        return mixed + self.out.bias


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Softmax attention summed over heads; q (B, N, H, D), k (B, N, D) shared, v (B, H, N, D), mask (B, N, N)."""
    b, n, h, d = q.shape
    scores = (q.reshape(b, n * h, d) @ k.transpose(1, 2)).view(b, n, h, n)
    scores = scores + mask[:, :, None, :]
    return torch.softmax(scores, dim=-1).view(b, n, h * n) @ v.reshape(b, h * n, d)


def _attend_fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """The same through the fused kernel: no (B, N, H, N) in memory, faster only where no gradient is needed."""
    keys = k[:, None].expand(-1, q.shape[2], -1, -1)
    heads = scaled_dot_product_attention(q.transpose(1, 2), keys, v, attn_mask=mask[:, None], scale=1.0)
    return heads.sum(dim=1)


class _BlockwiseAttention(torch.autograd.Function):
    """`_attend` with (N, H, N) never in memory at once, neither forward nor backward. Same arguments."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        dtypes = q.dtype, v.dtype, mask.dtype
        q, v, mask = q.to(k.dtype), v.to(k.dtype).contiguous(), mask.to(k.dtype)  # they differ under autocast
        b, n, h, d = q.shape
        out, memory = torch.empty(b, n, d, dtype=k.dtype), torch.empty(2, _block_size(n, h) * h * n, dtype=k.dtype)
        with torch.autocast("cpu", enabled=False):
            for g in range(b):
                values = v[g].view(h * n, d)
                for rows in _blocks(n, h):
                    p = _weights(q[g, rows], k[g], mask[g, rows], *memory)
                    torch.mm(p.view(-1, h * n), values, out=out[g, rows])
        ctx.save_for_backward(q, k, v, mask)
        ctx.dtypes = dtypes
        return out

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        q, k, v, mask = ctx.saved_tensors
        b, n, h, d = q.shape
        grad_out = grad_outputs[0].to(k.dtype).contiguous()
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        grad_mask = torch.empty_like(mask)
        memory = torch.empty(2, _block_size(n, h) * h * n, dtype=k.dtype)
        with torch.autocast("cpu", enabled=False):
            for g in range(b):
                values, grad_values = v[g].view(h * n, d), grad_v[g].view(h * n, d)
                for rows in _blocks(n, h):
                    p = _weights(q[g, rows], k[g], mask[g, rows], *memory)  # (rows, H, N)
                    size = len(p)
                    grad_values.addmm_(p.view(size, h * n).T, grad_out[g, rows])
                    # Softmax: dS = P (dP - sum(P dP)), in the memory of the scores.
                    grad_s = memory[0, : p.numel()].view(size, h, n)
                    torch.mm(grad_out[g, rows], values.T, out=grad_s.view(size, h * n))
                    grad_s.mul_(p)
                    grad_s.sub_(p.mul_(grad_s.sum(dim=-1, keepdim=True)))
                    flat = grad_s.view(size * h, n)
                    torch.mm(flat, k[g], out=grad_q[g, rows].view(size * h, d))
                    grad_k[g].addmm_(flat.T, q[g, rows].reshape(size * h, d))
                    torch.sum(grad_s, dim=1, out=grad_mask[g, rows])
        of_q, of_v, of_mask = ctx.dtypes
        return grad_q.to(of_q), grad_k, grad_v.to(of_v), grad_mask.to(of_mask)


def _block_size(num_nodes: int, num_heads: int) -> int:
    return min(num_nodes, max(1, BLOCK_FLOATS // (num_heads * num_nodes)))


def _blocks(num_nodes: int, num_heads: int) -> Iterator[slice]:
    size = _block_size(num_nodes, num_heads)
    for start in range(0, num_nodes, size):
        yield slice(start, min(start + size, num_nodes))


def _weights(q: Tensor, k: Tensor, mask: Tensor, scores: Tensor, weights: Tensor) -> Tensor:
    """Softmax over keys of a block of queries, (rows, H, N), in the memory `weights`.

    The same memory for every block stays in the cache, and is not asked of the system each time.

    Args:
        q: (rows, H, D).
        k: (N, D).
        mask: (rows, N).
        scores, weights: flat memory for at least rows * H * N numbers each.
    """
    rows, h, d = q.shape
    n = len(k)
    s = scores[: rows * h * n].view(rows, h, n)
    torch.mm(q.reshape(rows * h, d), k.T, out=s.view(rows * h, n))
    s.add_(mask[:, None, :])
    return torch.softmax(s, dim=-1, out=weights[: rows * h * n].view(rows, h, n))
