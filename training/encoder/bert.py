"""The base encoder (all-MiniLM-L6-v2, Apache-2.0) as a plain PyTorch module.

Written out rather than imported so that training needs PyTorch alone, and so that the graph
that is exported holds exactly the operations that are served.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Layer(nn.Module):
    """One post-norm transformer layer, in the order BERT has them."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width, eps=1e-12)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-12)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Map (texts, tokens, width) to the same shape; mask is added to the attention scores."""
        n, t, w = x.shape
        q, k, v = (
            part.view(n, t, self.heads, w // self.heads).transpose(1, 2)
            for part in self.qkv(x).split(w, dim=-1)
        )
        # Written out: on a CPU the fused call takes a third longer, forward and back.
        scores = q @ k.transpose(-1, -2) * (w // self.heads) ** -0.5 + mask.to(q.dtype)
        mixed = torch.softmax(scores, dim=-1) @ v
        mixed = mixed.transpose(1, 2).reshape(n, t, w)
        x = self.norm1(x + self.drop(self.out(mixed)))
        return self.norm2(x + self.drop(self.down(F.gelu(self.up(x)))))


class Encoder(nn.Module):
    """Token ids to one vector a token."""

    def __init__(self, vocabulary: int = 30522, width: int = 384, layers: int = 6, inner: int = 1536) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(512, width)
        self.kinds = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.ModuleList(Layer(width, 12, inner) for _ in range(layers))
        self.drop = nn.Dropout(0.1)

    def tokens(self, ids: torch.Tensor, seen: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
        """Map ids, seen (1 where a token is) and kinds, all (texts, tokens), to token vectors."""
        return self.after(len(self.layers), ids, seen, kinds)[0]

    def after(
        self, layers: int, ids: torch.Tensor, seen: torch.Tensor, kinds: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Token vectors of the whole encoder, and of its first `layers` layers."""
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.words(ids) + self.places(places)[None] + self.kinds(kinds)
        x = self.drop(self.norm(x))
        mask = (1.0 - seen.to(x.dtype))[:, None, None, :] * -10000.0
        between = x
        for number, layer in enumerate(self.layers, 1):
            x = layer(x, mask)
            if number == layers:
                between = x
        return x, between


def load_base(encoder: Encoder, tensors: dict[str, torch.Tensor]) -> None:
    """Copy the published weights (names of the Hugging Face BERT) into the encoder."""
    pairs: dict[str, torch.Tensor] = {
        "words.weight": tensors["embeddings.word_embeddings.weight"],
        "places.weight": tensors["embeddings.position_embeddings.weight"],
        "kinds.weight": tensors["embeddings.token_type_embeddings.weight"],
        "norm.weight": tensors["embeddings.LayerNorm.weight"],
        "norm.bias": tensors["embeddings.LayerNorm.bias"],
    }
    for index in range(len(encoder.layers)):
        old, new = f"encoder.layer.{index}.", f"layers.{index}."
        for part in ("weight", "bias"):
            pairs[f"{new}qkv.{part}"] = torch.cat(
                [tensors[f"{old}attention.self.{name}.{part}"] for name in ("query", "key", "value")]
            )
            for ours, theirs in (
                ("out", "attention.output.dense"),
                ("norm1", "attention.output.LayerNorm"),
                ("up", "intermediate.dense"),
                ("down", "output.dense"),
                ("norm2", "output.LayerNorm"),
            ):
                pairs[f"{new}{ours}.{part}"] = tensors[f"{old}{theirs}.{part}"]
    encoder.load_state_dict(pairs)
