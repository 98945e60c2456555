"""``python -m sdar_pl serve-retriever``: a server of passages in Search-R1's protocol, over BM25 or a dense index.

    python -m sdar_pl serve-retriever --corpus wiki.jsonl
    python -m sdar_pl serve-retriever --corpus fiction --port 8001
    python -m sdar_pl serve-retriever --corpus wiki.jsonl --model folder/of/e5

Left out: HTTPS and access rights. It listens on this machine only, unless told otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

from sdar_pl.checks import between
from sdar_pl.environments.search_qa.fiction import encyclopaedia
from sdar_pl.errors import UserError
from sdar_pl.retrieval.base import PassageRetriever
from sdar_pl.retrieval.bm25 import BM25
from sdar_pl.runtime.messages import PlainParser


def main(arguments: Sequence[str]) -> int:
    """The subcommand → exit status. Raises ``UserError``."""
    parser = PlainParser(
        prog="python -m sdar_pl serve-retriever",
        description="Serve passages in Search-R1's protocol: POST /retrieve, GET /health.",
    )
    parser.add_argument("--corpus", required=True, help="a JSONL file of passages, or fiction")
    parser.add_argument(
        "--index", default=None, help="folder of the index (the corpus's name with .bm25 or .dense behind it)"
    )
    parser.add_argument("--model", default=None, help="sentence-embedding model: dense retrieval instead of BM25")
    parser.add_argument("--topk", type=int, default=3, help="passages for a query that names no number (3)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine only)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (8000)")
    options = parser.parse_args(list(arguments))
    try:
        import uvicorn

        from sdar_pl.retrieval.server import MOST_PASSAGES, application
    except ImportError as error:
        raise UserError(
            "serve-retriever needs the packages starlette and uvicorn; pip install 'sdar_pl[search]'"
        ) from error
    between("--topk", options.topk, 1, MOST_PASSAGES)
    between("--port", options.port, 1, 65535)
    app = application(retriever_of(options.corpus, options.index, options.model), options.topk)
    print(f"http://{options.host}:{options.port}/retrieve serves {options.corpus}; Ctrl-C ends it", flush=True)
    try:
        uvicorn.run(app, host=options.host, port=options.port, log_level="warning", access_log=False)
    except SystemExit as error:  # uvicorn's answer to a port that is taken
        raise UserError(f"--port {options.port}: cannot listen on {options.host}; name a free port") from error
    return 0


def retriever_of(corpus: str, index: str | None, model: str | None) -> PassageRetriever:
    """BM25 or dense retrieval over a corpus file, or BM25 over the packaged fiction."""
    if corpus == "fiction":
        if model is not None:
            raise UserError("--model: the packaged fiction is searched by BM25; name a corpus file, or leave it out")
        return BM25.of(encyclopaedia().passages)
    if model is None:
        return BM25(corpus, index)
    from sdar_pl.retrieval.dense import Dense

    return Dense(corpus, model, index)
