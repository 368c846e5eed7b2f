"""Write a trained model as the ONNX graph that is served, in fp32 and quantised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import nn

HALFWAY = 4
"""Layers of the base that claim and evidence pass alone; the comparison goes on from there with both."""


class Served(nn.Module):
    """What is served: probabilities come later, from the manifest's calibration."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, ids: torch.Tensor, seen: torch.Tensor, kinds: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and attention, in this order."""
        logits, look = self.model(ids, seen, kinds)
        return logits, look


class Tokens(nn.Module):
    """The encoder alone: one vector a token, and one before the layers that the comparison replaces."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(
        self, ids: torch.Tensor, seen: torch.Tensor, kinds: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Token vectors (texts, tokens, width), of all layers and of the first HALFWAY."""
        return self.encoder.after(HALFWAY, ids, seen, kinds)


def export(model: nn.Module, path: Path) -> None:
    """Write `model` to `path` in fp32 with free text and token axes."""
    _export(Served(model), path, ["logits", "look"])


def export_tokens(encoder: nn.Module, path: Path) -> None:
    """Write the encoder alone to `path` in fp32 with free text and token axes."""
    _export(Tokens(encoder), path, ["tokens", "halfway"])


def _export(module: nn.Module, path: Path, outputs: list[str]) -> None:
    module.eval()
    example = (
        torch.tensor([[101, 2023, 2003, 102], [101, 2178, 102, 0]]),
        torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
        torch.zeros((2, 4), dtype=torch.long),
    )
    axes = {0: "texts", 1: "tokens"}
    torch.onnx.export(
        module,
        example,
        str(path),
        input_names=["ids", "seen", "kinds"],
        output_names=outputs,
        dynamic_axes={
            name: axes if name != "logits" else {0: "texts"} for name in ("ids", "seen", "kinds", *outputs)
        },
        opset_version=18,
        dynamo=False,
    )


class OnePair(nn.Module):
    """The comparison of one pair, unpadded."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, claim: torch.Tensor, claim_alone: torch.Tensor, evidence: torch.Tensor,
        evidence_alone: torch.Tensor, held: torch.Tensor, asked: torch.Tensor, said: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        """Logits (outputs,) of claim (n, width) and evidence (m, width)."""
        fed = (one.unsqueeze(0) for one in (claim, claim_alone, evidence, evidence_alone, held, asked, said))
        here, there = torch.ones_like(held).unsqueeze(0), torch.ones_like(said).unsqueeze(0)
        return self.model(*fed, here, there)[0]


def export_comparison(model: nn.Module, path: Path) -> None:
    """Write the comparison to `path` in fp32 with free lengths."""
    pair = OnePair(model).eval()
    claim, evidence = torch.randn(7, 384), torch.randn(19, 384)
    told, known = torch.zeros(7), torch.zeros(19)
    names = ["claim", "claim_alone", "evidence", "evidence_alone", "held", "asked", "said"]
    torch.onnx.export(
        pair,
        (claim, claim.clone(), evidence, evidence.clone(), told, told.clone(), known),
        str(path),
        input_names=names,
        output_names=["logits"],
        dynamic_axes={
            name: {0: "known" if name.startswith("evidence") or name == "said" else "told"} for name in names
        },
        opset_version=18,
        dynamo=False,
    )


STRETCH = 1.045
"""A model that was read back from int8 (encoder.tune) lies near its old grid: rounded to that again, most of what it
has learnt since would be lost. A grid that is a little coarser rounds it like any other weights."""


def quantise(source: Path, target: Path, *, again: bool = False) -> None:
    """Matrix weights and embeddings to int8, activations scaled on the fly.

    Per channel and in 7 bits, which every CPU computes exactly; one scale a row of the embeddings. `again` says that
    the weights were read back from such a graph once.
    """
    quantize_dynamic(
        str(source),
        str(target),
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul"],
    )
    if again:
        _stretch(source, target)
    _quantise_embeddings(target)


def _stretch(source: Path, target: Path) -> None:
    """Round the matrices anew, on a grid that is coarser by STRETCH."""
    exact = {tensor.name: tensor for tensor in onnx.load(source).graph.initializer}
    graph = onnx.load(target)
    held = {tensor.name: tensor for tensor in graph.graph.initializer}
    for name, tensor in held.items():
        if not name.endswith("_quantized"):
            continue
        origin = name.removesuffix("_quantized")
        scale = numpy_helper.to_array(held[origin + "_scale"]) * np.float32(STRETCH)
        if origin in exact:
            matrix = numpy_helper.to_array(exact[origin])
        else:  # a layer's weights that the quantiser has turned round
            matrix = numpy_helper.to_array(exact[origin.removesuffix("_Transposed")]).T
        values = np.rint(matrix / scale)
        tensor.CopyFrom(numpy_helper.from_array(np.clip(values, -64, 63).astype(np.int8), name))
        held[origin + "_scale"].CopyFrom(numpy_helper.from_array(scale, origin + "_scale"))
    onnx.save(graph, target)


def read_back(held: dict[str, np.ndarray], name: str) -> np.ndarray:
    """A layer's weights (outputs, inputs) out of a quantised graph's initializers, but for what int8 rounded away."""
    whole = held[name + "_quantized"].astype(np.float32) - held[name + "_zero_point"]
    return np.ascontiguousarray((whole * held[name + "_scale"]).T)


def without_words(content: bytes) -> tuple[bytes, np.ndarray]:
    """The quantised graph with the rows of its word table as an input, `rows`, and that table.

    The table is the same in all graphs, for training leaves it alone; it ships once.
    """
    graph = onnx.load_from_string(content)
    (node,) = [n for n in graph.graph.node if n.op_type == "Gather" and n.input[0].endswith("words.weight_q")]
    (held,) = [t for t in graph.graph.initializer if t.name == node.input[0]]
    table = numpy_helper.to_array(held)
    for reader in graph.graph.node:
        for place, name in enumerate(reader.input):
            if name == node.output[0]:
                reader.input[place] = "rows"
    graph.graph.node.remove(node)
    graph.graph.initializer.remove(held)
    graph.graph.input.append(
        helper.make_tensor_value_info("rows", TensorProto.INT8, ["texts", "tokens", table.shape[1]])
    )
    return graph.SerializeToString(), table


def _quantise_embeddings(path: Path) -> None:
    graph = onnx.load(path)
    big = {t.name: t for t in graph.graph.initializer if t.dims and t.dims[0] > 10000}
    for node in list(graph.graph.node):
        if node.op_type != "Gather" or node.input[0] not in big:
            continue
        table = numpy_helper.to_array(big[node.input[0]])
        scale = np.abs(table).max(axis=1, keepdims=True) / 127.0
        whole = np.clip(np.rint(table / scale), -127, 127).astype(np.int8)
        name = node.input[0]
        graph.graph.initializer.remove(big[name])
        graph.graph.initializer.extend(
            [
                numpy_helper.from_array(whole, name + "_q"),
                numpy_helper.from_array(scale.astype(np.float32), name + "_s"),
            ]
        )
        at = list(graph.graph.node).index(node)
        ids, out = node.input[1], node.output[0]
        graph.graph.node.remove(node)
        for offset, made in enumerate(
            (
                helper.make_node("Gather", [name + "_q", ids], [out + "_q"]),
                helper.make_node("Gather", [name + "_s", ids], [out + "_s"]),
                helper.make_node("Cast", [out + "_q"], [out + "_f"], to=TensorProto.FLOAT),
                helper.make_node("Mul", [out + "_f", out + "_s"], [out]),
            )
        ):
            graph.graph.node.insert(at + offset, made)
    onnx.save(graph, path)
