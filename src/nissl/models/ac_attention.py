"""Adjacency-conditioned attention: self-attention that each node may shift towards its neighbours.

For node i and head h, with x the input of the layer and A the adjacency with ones on the diagonal:

    (l_i, g_i) = exp(W x_i + b)                                      two numbers per node, shared by all heads
    a_ij^h     = softmax_j( l_i (q_i^h . k_j^h) / sqrt(D) + g_i A_ij )
    out_i      = Wo concat_h( sum_j a_ij^h v_j^h ) + bo

g = 0, l = 1 is plain attention; a large g averages over neighbours and self. Every head works in all D features, so the
scale is D^-1/2 and Wo takes H * D.

Source: Weis et al. 2023, https://openreview.net/forum?id=ThhMzfrd6r; the code of marissaweis/ssl_neuron@0a292e7178.

Computed in an exact form that costs about half. Since heads have the full D, the scores are x (Wq^h' Wk^h) x' with a
D x D matrix per head, so keys need no projection of their own; and Wo folds into the values, so the heads' outputs are
summed and not projected. All heads of a graph then share one large product, and A and g are never copied per head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

# B graphs, N nodes (with the CLS token), D features, H heads


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
        if torch.is_grad_enabled():
            mixed = _attend(q.view(b, n, h, d), x, v, mask)
        else:
            mixed = _attend_fused(q.view(b, n, h, d), x, v, mask)
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
