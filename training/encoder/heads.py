"""The encoder with its heads: one forward pass, one number a head and text."""

from __future__ import annotations

import torch
from torch import nn

from .bert import Encoder


class Heads(nn.Module):
    """Per-head attention over the tokens, plus the mean: a planted sentence must not drown.

    The attention of a head says which tokens the score came from, which serves as evidence.
    """

    def __init__(self, encoder: Encoder, outputs: int, width: int = 384) -> None:
        super().__init__()
        self.encoder = encoder
        self.look = nn.Linear(width, outputs)
        self.value = nn.Linear(width, outputs)
        self.mean = nn.Linear(width, outputs, bias=False)
        self.drop = nn.Dropout(0.1)
        for part in (self.look, self.value, self.mean):
            nn.init.normal_(part.weight, std=0.02)

    def forward(
        self, ids: torch.Tensor, seen: torch.Tensor, kinds: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits (texts, heads) and attention (texts, tokens, heads)."""
        x = self.drop(self.encoder.tokens(ids, seen, kinds))
        here = seen.to(x.dtype)[:, :, None]
        look = torch.softmax(self.look(x) + (1.0 - here) * -10000.0, dim=1)
        pooled = (look * self.value(x)).sum(1)
        mean = (x * here).sum(1) / here.sum(1)
        return pooled + self.mean(mean), look
