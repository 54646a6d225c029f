"""Fewer tokens from block to block: DiffRate (Chen et al., ICCV 2023).

Behind the attention of a block, the tokens that others attend to least are pruned, the next ones are merged into those
that are most alike, and only the rest goes on. How many each block prunes and merges is learned by gradient while the
network's weights stay as they are; then the numbers are fixed, and the network is exported with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from search_spaces.elastic_vit.network import VisionTransformer, embedded
from search_spaces.layers.transformer import SelfAttention, TransformerBlock

Tensor = torch.Tensor


@dataclass(frozen=True)
class KeptTokens:
    """How many tokens a block has left once it has pruned, and once it has merged; the class token counts."""

    pruned: int
    merged: int


def attend_with_shares(
    attention: SelfAttention, x_BNC: Tensor, weight_BN: Tensor, tokens: int, may_be_masked: bool = False
) -> tuple[Tensor, Tensor]:
    """Attention of so many tokens, in which they count ``weight_BN`` times, such as those that stand for several
    (proportional attention, equation 5), and how much they attend to each other on the mean over heads, (B, N, N).
    Sizes are numbers, so that an exported model does not compute shapes. ``may_be_masked``: weights may be 0."""
    heads, head_dim = attention.heads, attention.head_dim
    split_BHNC = attention.qkv(x_BNC).reshape(-1, tokens, 3 * heads, head_dim).transpose(1, 2)
    query, key, value = split_BHNC.split(heads, dim=1)
    scores_BHNN = (query @ key.transpose(-2, -1)) * head_dim**-0.5
    if may_be_masked:
        shares_BHNN = scores_BHNN.softmax(-1) * weight_BN[:, None, None]
        shares_BHNN = shares_BHNN / shares_BHNN.sum(-1, keepdim=True)
    else:
        shares_BHNN = (scores_BHNN + weight_BN.log()[:, None, None]).softmax(-1)
    y_BNC = (shares_BHNN @ value).transpose(1, 2).reshape(-1, tokens, heads * head_dim)
    return attention.proj(y_BNC), shares_BHNN.mean(1)


def importance_of(shares_BNN: Tensor, has_class_token: bool) -> Tensor:
    """By what tokens are ranked, (B, N): how much the class token attends to them, or all tokens do on the mean where
    there is none. The class token, which comes first, stays first."""
    if not has_class_token:
        return shares_BNN.mean(1)
    return F.pad(shares_BNN[:, 0, 1:], (1, 0), value=2.0)  # more than any share


def picked(x_BNC: Tensor, index_BK: Tensor, channels: int) -> Tensor:
    """The tokens of an index, (B, K, C)."""
    return x_BNC.gather(1, index_BK[:, :, None].expand(-1, -1, channels))


def merge(x_BNC: Tensor, size_BN1: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """Each token behind the ``kept`` first joins the kept one whose direction is nearest: their features are averaged,
    and their numbers of tokens, ``size_BN1``, add up. Tokens whose number is 0 count for nothing."""
    kept_BKC, tail_BTC = x_BNC[:, :kept], x_BNC[:, kept:]
    kept_BK1, tail_BT1 = size_BN1[:, :kept], size_BN1[:, kept:]
    similarity_BTK = F.normalize(tail_BTC, dim=2) @ F.normalize(kept_BKC, dim=2).transpose(1, 2)
    places_K = torch.arange(kept, device=x_BNC.device)
    joins_BKT = (similarity_BTK.argmax(2, keepdim=True) == places_K).transpose(1, 2).to(kept_BKC.dtype)
    present_BT1 = (tail_BT1 > 0).to(kept_BKC.dtype)
    summed_BKC, joined_BK1 = joins_BKT @ (tail_BTC * present_BT1), joins_BKT @ present_BT1
    return (kept_BKC + summed_BKC) / (1 + joined_BK1), kept_BK1 + joins_BKT @ tail_BT1


class CompressedVisionTransformer(VisionTransformer):
    """A network, with its modules and their names, whose blocks go on with fixed numbers of tokens, ``kept``."""

    def __init__(self, network: VisionTransformer, kept: Sequence[KeptTokens]) -> None:
        nn.Module.__init__(self)
        self.patch_embed, self.cls_token, self.pos_embed = network.patch_embed, network.cls_token, network.pos_embed
        self.blocks, self.norm, self.dropout, self.head = network.blocks, network.norm, network.dropout, network.head
        self.kept = tuple(kept)
        self.tokens, self.width = network.pos_embed.shape[1:]

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits of shape (B, classes)."""
        x_BNC = embedded(self.patch_embed(x_BCHW), self.cls_token, self.pos_embed)
        size_BN1 = torch.ones_like(x_BNC[:, :, :1])
        tokens = self.tokens
        for block, kept in zip(self.blocks, self.kept, strict=True):
            assert isinstance(block, TransformerBlock)
            y_BNC, shares_BNN = attend_with_shares(block.attn, block.norm1(x_BNC), size_BN1[:, :, 0], tokens)
            x_BNC = x_BNC + y_BNC
            if kept.merged < tokens:
                x_BNC, size_BN1 = self._compressed(x_BNC, size_BN1, shares_BNN, kept)
            tokens = kept.merged
            x_BNC = x_BNC + block.mlp(block.norm2(x_BNC))
        x_BC = self.norm(mean_token(x_BNC, size_BN1) if self.cls_token is None else x_BNC[:, 0])
        logits: Tensor = self.head(self.dropout(x_BC))
        return logits

    def _compressed(
        self, x_BNC: Tensor, size_BN1: Tensor, shares_BNN: Tensor, kept: KeptTokens
    ) -> tuple[Tensor, Tensor]:
        ranked_BK = importance_of(shares_BNN, self.cls_token is not None).topk(kept.pruned, dim=1).indices
        x_BNC, size_BN1 = picked(x_BNC, ranked_BK, self.width), picked(size_BN1, ranked_BK, 1)
        return (x_BNC, size_BN1) if kept.merged == kept.pruned else merge(x_BNC, size_BN1, kept.merged)


def mean_token(x_BNC: Tensor, size_BN1: Tensor) -> Tensor:
    """The mean of all tokens, of which some stand for several, (B, C)."""
    return (x_BNC * size_BN1).sum(1) / size_BN1.sum(1)


class RateSelector(nn.Module):
    """How many of ``tokens`` a block keeps: the mean of candidates from all down to one, by learned probabilities
    (equation 8). The class token, if there is one, is kept beside them."""

    def __init__(self, tokens: int, step: int) -> None:
        super().__init__()
        self.candidates_K: Tensor
        self.register_buffer("candidates_K", torch.arange(tokens, 0, -step, dtype=torch.float32))
        self.logits_K = nn.Parameter(torch.zeros(len(self.candidates_K)))

    def kept(self) -> Tensor:
        """The number, rounded up; its gradient is that of the mean (straight-through)."""
        mean = (self.logits_K.softmax(0) * self.candidates_K).sum()
        return mean.ceil().detach() - mean.detach() + mean

    def survival(self, tokens: int) -> Tensor:
        """The probability that more tokens are kept than rank before a token, by its rank, shape (tokens,)."""
        ranks_N1 = torch.arange(tokens, device=self.logits_K.device)[:, None]
        return ((self.candidates_K > ranks_N1) * self.logits_K.softmax(0)).sum(1)


class RateSearch(nn.Module):
    """A frozen network and the two selectors of each block but the first, for which tokens are masked in place of being
    removed, so that gradients reach the selectors. Without a class token, importance is the mean attention."""

    def __init__(self, network: VisionTransformer) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.has_class = network.cls_token is not None
        self.tokens = network.pos_embed.shape[1]
        patches, step = self.tokens - self.has_class, 4 if self.tokens > 64 else 1
        blocks = len(network.blocks) - 1
        self.prune, self.merge = (nn.ModuleList(RateSelector(patches, step) for _ in range(blocks)) for _ in range(2))

    def forward(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, classes), and MACs of one image in all blocks, both with gradients to the selectors."""
        net = self.network
        x_BNC = embedded(net.patch_embed(x_BCHW), net.cls_token, net.pos_embed)
        size_BN1, mask_BN1 = torch.ones_like(x_BNC[:, :, :1]), torch.ones_like(x_BNC[:, :, :1])
        macs, count = x_BNC.new_zeros(()), torch.tensor(float(self.tokens), device=x_BNC.device)
        for b, block in enumerate(net.blocks):
            assert isinstance(block, TransformerBlock)
            weight_BN = (size_BN1 * mask_BN1)[:, :, 0]
            y_BNC, shares_BNN = attend_with_shares(block.attn, block.norm1(x_BNC), weight_BN, self.tokens, True)
            x_BNC, before = x_BNC + y_BNC, count
            if b > 0:
                order_BN = self._order(shares_BNN, mask_BN1.detach())
                x_BNC, size_BN1, mask_BN1 = (picked(v, order_BN, v.shape[2]) for v in (x_BNC, size_BN1, mask_BN1))
                pruned = self._kept(self.prune[b - 1], count)
                mask_BN1 = mask_BN1 * self._mask(self.prune[b - 1], pruned)
                count = self._kept(self.merge[b - 1], pruned)
                x_BNC, size_BN1 = self._merged(x_BNC, size_BN1, mask_BN1, _whole(count))
                mask_BN1 = mask_BN1 * self._mask(self.merge[b - 1], count)
            x_BNC = x_BNC + block.mlp(block.norm2(x_BNC))
            macs = macs + block_macs(block, before, count)
        x_BC = net.norm(mean_token(x_BNC, size_BN1 * mask_BN1) if not self.has_class else x_BNC[:, 0])
        return net.head(x_BC), macs

    def kept(self) -> list[KeptTokens]:
        """The numbers of all blocks as they have been learned."""
        count, out = torch.tensor(float(self.tokens)), [KeptTokens(self.tokens, self.tokens)]
        for prune, merge_selector in zip(self.prune, self.merge, strict=True):
            pruned = self._kept(prune, count)
            count = self._kept(merge_selector, pruned)
            out.append(KeptTokens(_whole(pruned), _whole(count)))
        return out

    def _order(self, shares_BNN: Tensor, mask_BN1: Tensor) -> Tensor:
        """Tokens by falling importance, masked ones last."""
        if not self.has_class:  # as if masked tokens attended to none
            shares_BNN = shares_BNN * mask_BN1 / mask_BN1.mean(1, keepdim=True)
        importance_BN = importance_of(shares_BNN, self.has_class)
        return torch.where(mask_BN1[:, :, 0] > 0, importance_BN, -1.0).argsort(1, descending=True)

    def _kept(self, selector: nn.Module, before: Tensor) -> Tensor:
        """Tokens that a selector leaves: it acts only where that is fewer than there are."""
        assert isinstance(selector, RateSelector)
        number = selector.kept() + self.has_class
        return number if _whole(number) < _whole(before) else before

    def _mask(self, selector: nn.Module, kept: Tensor) -> Tensor:
        """1 for tokens that stay by their rank, else 0, with the gradient of their survival, (N, 1)."""
        assert isinstance(selector, RateSelector)
        patches = self.tokens - self.has_class
        survival_N = F.pad(selector.survival(patches), (int(self.has_class), 0), value=1.0)
        hard_N = (torch.arange(self.tokens, device=survival_N.device) < _whole(kept)).to(survival_N.dtype)
        return (hard_N - survival_N.detach() + survival_N)[:, None]

    @staticmethod
    def _merged(x_BNC: Tensor, size_BN1: Tensor, mask_BN1: Tensor, kept: int) -> tuple[Tensor, Tensor]:
        """Tokens behind the ``kept`` first ones merged into these, as far as they are not masked."""
        first, size = merge(x_BNC, size_BN1 * mask_BN1.detach(), kept)
        return torch.cat([first, x_BNC[:, kept:]], 1), torch.cat([size, size_BN1[:, kept:]], 1)


def _whole(number: Tensor) -> int:
    """A whole number that may have a gradient."""
    return round(float(number.detach()))


def block_macs(block: TransformerBlock, before: Tensor, behind: Tensor) -> Tensor:
    """MACs of a block whose attention reads ``before`` tokens and whose MLP reads those ``behind`` compression."""
    qkv, proj, fc1 = block.attn.qkv, block.attn.proj, block.mlp.fc1
    linear = qkv.in_features * qkv.out_features + proj.in_features * proj.out_features
    attention = 2 * before**2 * proj.in_features
    return before * linear + attention + 2 * behind * fc1.in_features * fc1.out_features


@dataclass(frozen=True)
class RateRecipe:
    """How rates are learned: DiffRate's three epochs of AdamW from 0.01 to 0.001 with a cosine. ``macs_weight``: of the
    squared distance from the bound, as a share of all MACs; the authors' 5 for billions of them in DeiT-small."""

    epochs: int = 3
    batch_size: int = 128
    lr: float = 0.01
    last_lr: float = 0.001
    macs_weight: float = 100.0


def rate_loss(
    logits_BK: Tensor, label_B: Tensor, macs: Tensor, full_macs: float, share: float, weight: float
) -> Tensor:
    """Cross-entropy, and the squared distance of MACs from ``share`` of ``full_macs`` (equation 10)."""
    return F.cross_entropy(logits_BK, label_B) + weight * (macs / full_macs - share) ** 2


def learned_rates(
    network: VisionTransformer, x_NCHW: Tensor, label_N: Tensor, share: float, recipe: RateRecipe, seed: int
) -> list[KeptTokens]:
    """The tokens that each block keeps so that blocks take ``share`` of their MACs, learned from normalised images."""
    search = RateSearch(network)
    full_macs = float(full_block_macs(network))
    optimiser = torch.optim.AdamW(search.parameters(), lr=recipe.lr, weight_decay=0.0)
    per_epoch = max(1, len(x_NCHW) // recipe.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.epochs * per_epoch, recipe.last_lr)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(recipe.epochs):
        order_N = torch.randperm(len(x_NCHW), generator=generator)
        for step in range(per_epoch):
            rows = order_N[step * recipe.batch_size : (step + 1) * recipe.batch_size]
            logits_BK, macs = search(x_NCHW[rows])
            loss = rate_loss(logits_BK, label_N[rows], macs, full_macs, share, recipe.macs_weight)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    return search.kept()


def full_block_macs(network: VisionTransformer) -> Tensor:
    """MACs of all blocks without compression."""
    tokens = torch.tensor(float(network.pos_embed.shape[1]))
    blocks = [block for block in network.blocks if isinstance(block, TransformerBlock)]
    return torch.stack([block_macs(block, tokens, tokens) for block in blocks]).sum()


def compressed_block_macs(network: VisionTransformer, kept: Sequence[KeptTokens]) -> float:
    """MACs of all blocks with fixed numbers of tokens."""
    count, total = float(network.pos_embed.shape[1]), 0.0
    for block, numbers in zip(network.blocks, kept, strict=True):
        assert isinstance(block, TransformerBlock)
        total += float(block_macs(block, torch.tensor(count), torch.tensor(float(numbers.merged))))
        count = float(numbers.merged)
    return total
