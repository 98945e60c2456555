"""Dense retrieval with a small encoder of random weights: vectors, index on disk, threads, server."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tokenizers import packaged
from transformers import BertConfig, BertModel

from sdar_pl.commands.serve_retriever import retriever_of
from sdar_pl.environments.search_qa.fiction import encyclopaedia
from sdar_pl.errors import UserError
from sdar_pl.retrieval.dense import Dense

PASSAGES = encyclopaedia().passages[:60]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("encoder")
    tokenizer = packaged()
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=256, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    path = tmp_path / "corpus.jsonl"
    rows = [{"id": p.id, "title": p.title, "text": p.text} for p in PASSAGES]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_ranking_by_hand(encoder: str, corpus: str, pooling: str) -> None:
    """The vectors of one text at a time, without padding, and their inner products."""
    index = Dense(corpus, encoder, pooling=pooling, max_tokens=64, batch=7)  # type: ignore[arg-type]
    model = BertModel.from_pretrained(encoder).eval()

    def vector(text: str) -> np.ndarray:
        ids = torch.tensor([index.tokenizer(text)["input_ids"][:64]])
        with torch.no_grad():
            states = model(input_ids=ids).last_hidden_state[0]
        pooled = states.mean(0) if pooling == "mean" else states[0]
        return (pooled / pooled.norm()).numpy()

    vectors = np.stack([vector(f"passage: {p.title} {p.text}") for p in PASSAGES])
    queries = ["river", PASSAGES[5].text, PASSAGES[20].title]
    for query, found in zip(queries, index.retrieve(queries, 4), strict=True):
        scores = vectors @ vector(f"query: {query}")
        best = np.argsort(-scores)[:4]
        assert [passage.id for passage in found] == [PASSAGES[number].id for number in best]
        assert [passage.score for passage in found] == pytest.approx(scores[best].tolist(), abs=1e-5)


def test_the_index_is_built_once_and_again_for_another_model(encoder: str, corpus: str) -> None:
    index, folder = Dense(corpus, encoder), Path(corpus + ".dense")
    built = (folder / "vectors.faiss").stat().st_mtime_ns
    assert len(index.retrieve(["river"], 100)[0]) == len(PASSAGES)  # no more than there are
    assert index.retrieve([], 3) == []
    Dense(corpus, encoder, batch=5, query_prefix="")
    assert (folder / "vectors.faiss").stat().st_mtime_ns == built
    Dense(corpus, encoder, passage_prefix="")
    assert (folder / "vectors.faiss").stat().st_mtime_ns != built


def test_threads_and_the_server_s_retriever(encoder: str, corpus: str) -> None:
    index = retriever_of(corpus, None, encoder)
    queries = [passage.title for passage in PASSAGES]
    alone = index.retrieve(queries, 3)
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda query: index.retrieve([query], 3)[0], queries))
    assert [[p.id for p in found] for found in together] == [[p.id for p in found] for found in alone]


def test_bad_input(corpus: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"retriever.model: '.*nowhere' cannot be loaded"):
        Dense(corpus, str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="--model: the packaged fiction is searched by BM25"):
        retriever_of("fiction", None, "a model")
