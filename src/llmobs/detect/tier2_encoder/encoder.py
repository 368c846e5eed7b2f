"""The ONNX graph with its tokenizer: text in, logits per window out."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from tokenizers import Tokenizer

from llmobs.detect.artefacts import ArtefactBroken, Artefacts
from llmobs.detect.tier2_encoder.manifest import EncoderManifest
from llmobs.detect.tier2_encoder.words import UNKNOWN, Words, fed
from llmobs.domain.subject import Span

TOLERANCE = 0.6
"""How far a probe's logit may lie from what was recorded: processors round int8 products
differently by up to about 0.3; a graph that says nothing is off by several."""

Logits = NDArray[np.float32]


class Window(msgspec.Struct, frozen=True):
    """A stretch of word pieces with the characters that each came from."""

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]

    @property
    def span(self) -> Span:
        """The characters of the whole window."""
        return Span(self.offsets[0][0], self.offsets[-1][1]) if self.offsets else Span(0, 0)


class Encoder:
    """One loaded graph. `run` may be called from several threads at once.

    Each call takes one window, unpadded: the int8 graph scales activations over the whole call,
    so a text in a batch would score differently from the same text alone (docs/decisions/0005).
    """

    def __init__(self, artefacts: Artefacts, words: Words) -> None:
        self._words = words
        self.manifest = artefacts.told(EncoderManifest)
        self._tokenizer = tokenizer_of(artefacts)
        self._session = session_of(artefacts, ["logits", "look"])

    def pieces(self, text: str) -> Window:
        """The whole text as word pieces, however long."""
        found = self._tokenizer.encode(text, add_special_tokens=False)
        return Window(tuple(found.ids), tuple(found.offsets))

    def windows(self, text: str) -> tuple[Window, ...]:
        """The text in overlapping windows; the last one ends with it. At least one."""
        whole = self.pieces(text)
        size, stride = self.manifest.window, self.manifest.stride
        count = len(whole.ids)
        if count == 0:
            return (Window((UNKNOWN,), ((0, len(text)),)),)
        if count <= size:
            return (whole,)
        starts = [*range(0, count - size, stride), count - size]
        return tuple(Window(whole.ids[at : at + size], whole.offsets[at : at + size]) for at in starts)

    def run(self, pieces: Sequence[int]) -> tuple[Logits, Logits]:
        """Logits (heads,) and attention (pieces with [CLS] and [SEP], heads) of one window."""
        logits, look = self._session.run(None, fed(self._words, pieces))
        return logits[0], look[0]

    def try_probes(self) -> None:
        """Run the texts that were recorded with the graph; ArtefactBroken when it answers otherwise."""
        probes = self.manifest.probes
        if not probes:
            raise ArtefactBroken("the manifest holds no probes, so the graph cannot be trusted")
        spread = np.ptp([probe.logits for probe in probes], axis=0)
        if spread.size and float(spread.min()) < 2 * TOLERANCE:
            raise ArtefactBroken("the probes of a head hardly differ, so they would pass a dead graph")
        for number, probe in enumerate(probes):
            logits, _ = self.run(self.pieces(probe.text).ids)
            wanted = np.array(probe.logits, dtype=np.float32)
            if logits.shape != wanted.shape or not np.all(np.isfinite(logits)):
                raise ArtefactBroken(f"probe {number}: {logits.size} outputs, {wanted.size} recorded")
            off = np.abs(logits - wanted)
            if float(off.max()) > TOLERANCE:
                worst = int(off.argmax())
                raise ArtefactBroken(
                    f"probe {number}: output {worst} is {logits[worst]:.2f}, {wanted[worst]:.2f} when made"
                )


def tokenizer_of(artefacts: Artefacts) -> Tokenizer:
    """The tokenizer of a folder, without padding and cutting."""
    content = artefacts.read("tokenizer.json").decode()
    try:
        tokenizer = Tokenizer.from_str(content)
    except Exception as error:  # the library raises bare Exception on a file it cannot read
        raise ArtefactBroken(f"{artefacts.folder.name}/tokenizer.json: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def session_of(artefacts: Artefacts, outputs: list[str], name: str = "encoder.onnx") -> ort.InferenceSession:
    """The graph of a folder, ready to run; it must give these outputs."""
    artefacts.read(name)  # for its checksum
    try:
        # By its path: given bytes, the session would keep them beside its weights.
        path = str(artefacts.folder / name)
        session = ort.InferenceSession(path, _options(), providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's exceptions share no base class of their own
        raise ArtefactBroken(f"{artefacts.folder.name}/{name}: {error}") from error
    found = [output.name for output in session.get_outputs()]
    if found != outputs:
        raise ArtefactBroken(f"{artefacts.folder.name}/{name} gives {found}, not {outputs}")
    return session


def probability(logit: float, slope: float, offset: float) -> float:
    """The calibrated score of a logit, 0 to 1."""
    return float(1.0 / (1.0 + np.exp(-(slope * logit + offset))))


def threads(wanted: int) -> ThreadPoolExecutor:
    """The threads that run graphs: as many as asked for, or (0) one a core, at most four."""
    return ThreadPoolExecutor(wanted or min(4, os.cpu_count() or 1), thread_name_prefix="encoder")


def _options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    # One thread a call and calls side by side: two threads in one call lose under load.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.enable_cpu_mem_arena = False  # the arena keeps the largest text's memory for ever
    options.log_severity_level = 3
    return options
