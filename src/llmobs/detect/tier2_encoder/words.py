"""The table of word-piece vectors that all graphs begin with: held once, outside of them.

Fine-tuning left it as the base has it, so graphs get the rows of their pieces as an input. Mapped
from its file, so that several workers on one machine share it too.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llmobs.detect.artefacts import ArtefactBroken, Artefacts

CLS, SEP, UNKNOWN = 101, 102, 100
PIECES, WIDTH = 30_522, 384

Words = NDArray[np.int8]
"""(PIECES, WIDTH); the graphs hold the scale of each row."""


def load_words(artefacts: Artefacts) -> Words:
    """The table of a folder; ArtefactBroken where it is not what its manifest says."""
    artefacts.read("words.npy")  # for its checksum
    try:
        table: Words = np.load(artefacts.folder / "words.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ArtefactBroken(f"{artefacts.folder.name}/words.npy: {error}") from error
    if table.dtype != np.int8 or table.shape != (PIECES, WIDTH):
        raise ArtefactBroken(f"{artefacts.folder.name}/words.npy: {table.dtype} of shape {table.shape}")
    return table


def fed(words: Words, pieces: Sequence[int]) -> dict[str, NDArray[np.int8] | NDArray[np.int64]]:
    """What a graph is given for one text: pieces between [CLS] and [SEP], unpadded."""
    ids = np.array([[CLS, *pieces, SEP]], dtype=np.int64)
    return {"ids": ids, "rows": words[ids], "seen": np.ones_like(ids), "kinds": np.zeros_like(ids)}
