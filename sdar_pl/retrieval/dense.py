"""Dense: passages found by the inner product of sentence embeddings, in this process (Karpukhin et al. 2020).

Any folder of a sentence-embedding model that transformers loads; faiss keeps and searches the vectors. Left out:
approximate indexes, and models with a head of their own behind the pooling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from sdar_pl.checks import at_least, one_of
from sdar_pl.errors import UserError
from sdar_pl.retrieval.base import Passage, PassageRetriever
from sdar_pl.retrieval.batching import Batcher
from sdar_pl.retrieval.corpus import Offsets, scan
from sdar_pl.retrieval.index_folder import Shown, open_index

_VECTORS = "vectors.faiss"


class Dense(PassageRetriever):
    """Exact search of normalised sentence embeddings over a JSONL corpus. The defaults are e5's, the paper's model.

    Args:
        corpus: the file.
        model: folder or hub name of the embedding model.
        index: the folder of the index; null means the corpus's name with ".dense" behind it. It is built once, and
            again when the corpus or an argument has changed.
        pooling: of the last hidden states: "mean" over the tokens, or the first token's ("cls").
        query_prefix: before every query.
        passage_prefix: before every passage.
        max_tokens: a longer text is cut off (≥ 1).
        batch: texts of one forward pass (≥ 1).
        device: of the model; null means a GPU where there is one.

    Raises ``UserError`` without the package faiss (extra ``dense``), for a bad corpus or model, and for an index folder
    that holds something else.
    """

    def __init__(
        self,
        corpus: str,
        model: str,
        index: str | None = None,
        pooling: Literal["mean", "cls"] = "mean",
        query_prefix: str = "query: ",
        passage_prefix: str = "passage: ",
        max_tokens: int = 256,
        batch: int = 64,
        device: str | None = None,
    ) -> None:
        key = "data.environment.retriever."
        self.mean = one_of(f"{key}pooling", pooling, ("mean", "cls")) == "mean"
        self.query_prefix, self.passage_prefix = query_prefix, passage_prefix
        self.max_tokens, self.batch = at_least(f"{key}max_tokens", max_tokens, 1), at_least(f"{key}batch", batch, 1)
        self.faiss = _faiss()
        self.tokenizer, self.model = _loaded(model, device or ("cuda" if torch.cuda.is_available() else "cpu"))
        facts = {"model": model, "pooling": pooling, "passage_prefix": passage_prefix, "max_tokens": max_tokens}
        self._passages, folder = open_index(corpus, index, "dense", self._build, **facts)
        self._index = self.faiss.read_index(str(folder / _VECTORS), self.faiss.IO_FLAG_MMAP)
        # Sessions that step at the same time share a forward pass.
        self._embed_query: Batcher[str, npt.NDArray[np.float32]] = Batcher(self._each_query, batch, wait=0.002)

    def retrieve(self, queries: Sequence[str], topk: int) -> list[list[Passage]]:
        """The ``topk`` passages of the greatest cosine similarity, for each query."""
        vectors = self._embed_query(queries[0])[None] if len(queries) == 1 else self._queries(queries)
        scores, numbers = self._index.search(vectors, min(topk, self._index.ntotal))
        return [
            [replace(self._passages[int(number)], score=float(score)) for number, score in zip(*found, strict=True)]
            for found in zip(numbers, scores, strict=True)
        ]

    def embedded(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """(texts, hidden size) vectors of length 1."""
        inputs = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        ).to(self.model.device)
        with torch.inference_mode():
            states = self.model(**inputs).last_hidden_state.float()
        mask = inputs["attention_mask"][..., None]
        pooled = (states * mask).sum(1) / mask.sum(1).clamp(min=1) if self.mean else states[:, 0]
        vectors: npt.NDArray[np.float32] = torch.nn.functional.normalize(pooled, dim=-1).cpu().numpy()
        return vectors

    def _each_query(self, queries: Sequence[str]) -> list[npt.NDArray[np.float32]]:
        return list(self._queries(queries))

    def _queries(self, queries: Sequence[str]) -> npt.NDArray[np.float32]:
        return np.concatenate(
            [
                self.embedded([self.query_prefix + query for query in queries[begin : begin + self.batch]])
                for begin in range(0, len(queries), self.batch)
            ]
            or [np.zeros((0, self.model.config.hidden_size), np.float32)]
        )

    def _build(self, corpus: Path, folder: Path, progress: Shown) -> Offsets:
        index, waiting = self.faiss.IndexFlatIP(self.model.config.hidden_size), list[str]()

        def flush() -> None:
            if waiting:
                index.add(self.embedded(waiting))
                waiting.clear()

        def use(passage: Passage) -> None:
            waiting.append(self.passage_prefix + f"{passage.title} {passage.text}".strip())
            if len(waiting) == self.batch:
                flush()

        offsets = scan(corpus, use, progress)
        flush()
        self.faiss.write_index(index, str(folder / _VECTORS))
        return offsets


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise UserError("dense retrieval needs the package faiss-cpu; pip install 'sdar_pl[dense]'") from error
    return faiss


def _loaded(model: str, device: str) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer, network = AutoTokenizer.from_pretrained(model), AutoModel.from_pretrained(model)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"data.environment.retriever.model: {model!r} cannot be loaded ({reason})") from error
    tokenizer.padding_side = "right"
    return tokenizer, network.to(device).eval()
