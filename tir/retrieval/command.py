"""`tir-retrieval`: build an index, serve it over HTTP, and query an index or a server."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from tir.common.cli import command
from tir.common.errors import ConfigError

_INSTALL = "pip install '.[retrieval]'  # in a clone of the repository; [dense] for an index of embeddings"


def main() -> None:
    """Command line."""
    command(_main, _INSTALL)


def _main() -> None:
    from tir.retrieval import server

    parse = argparse.ArgumentParser("tir-retrieval", description="Exact passage retrieval: BM25 or a sentence encoder.")
    commands = parse.add_subparsers(metavar="COMMAND", required=True)
    build = commands.add_parser(
        "build",
        help="build an index from a corpus",
        description="Build an index from a corpus: BM25, or with --model an index of embeddings. "
        "Run the same command again to continue an interrupted build.",
    )
    build.add_argument(
        "corpus", metavar="CORPUS", help='JSON Lines {"id", "contents"}; line 1 of contents is the title'
    )
    build.add_argument("index", metavar="INDEX", help="directory to write")
    build.add_argument("--model", help="sentence encoder: a directory, an installed package, or OWNER/NAME[@REVISION]")
    build.add_argument(
        "--query-prefix", help='text before every query, needed with --model (e5: "query: "; MiniLM: "")'
    )
    build.add_argument("--passage-prefix", help='text before every passage, needed with --model (e5: "passage: ")')
    build.add_argument("--max-query-tokens", type=int, default=128, help="longer queries are cut (default: 128)")
    build.add_argument("--max-passage-tokens", type=int, default=512, help="longer passages are cut (default: 512)")
    build.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"], help="where the encoder runs")
    build.set_defaults(call=_build)

    serve = commands.add_parser(
        "serve",
        help="serve an index over HTTP",
        description="Serve an index over FlashRAG's HTTP interface until Ctrl-C: GET /health, POST /search {query, "
        "top_n}, POST /batch_search {query: [...], top_n}. The address is printed when the server is ready. "
        "If the environment variable TIR_SEARCH_TOKEN is set, searches need `Authorization: Bearer TOKEN`.",
    )
    serve.add_argument("index", metavar="INDEX", help="index directory")
    server.add_options(serve)
    serve.set_defaults(call=server.serve_from)

    query = commands.add_parser(
        "query",
        help="print the best passages for a question",
        description="Print the best passages for a question, best first, one JSON object a line.",
    )
    query.add_argument("source", metavar="INDEX|URL", help="index directory, or URL of a server")
    query.add_argument("question", metavar="QUESTION")
    query.add_argument("--top-k", type=int, default=5, help="number of passages (default: 5)")
    query.set_defaults(call=_query)

    arguments = parse.parse_args()
    arguments.call(arguments)


def _build(arguments: argparse.Namespace) -> None:
    from tir.retrieval.bm25 import BM25Config
    from tir.retrieval.build import build_index
    from tir.retrieval.encoder import EncoderConfig

    if not arguments.model:
        build_index(arguments.corpus, arguments.index, BM25Config())
        return
    if arguments.query_prefix is None or arguments.passage_prefix is None:
        raise ConfigError(
            "prefix missing",
            where="--query-prefix, --passage-prefix",
            why="the embeddings depend on the prefixes, which are not guessed from the encoder's name",
            remedy="--query-prefix 'query: ' --passage-prefix 'passage: '  # for e5; '' for no prefix",
        )
    names = ("model", "query_prefix", "passage_prefix", "max_query_tokens", "max_passage_tokens", "device")
    config = EncoderConfig.from_mapping({name: getattr(arguments, name) for name in names})
    build_index(arguments.corpus, arguments.index, config)


def _query(arguments: argparse.Namespace) -> None:
    if Path(arguments.source).is_dir():
        from tir.retrieval.index import load_index

        passages = load_index(arguments.source).search([arguments.question], arguments.top_k)[0]
    else:
        from tir.retrieval.client import SearchClient

        client = SearchClient(arguments.source, top_k=arguments.top_k, retry_budget_s=10)
        passages = client.batch_search_sync([arguments.question])[0]
    for passage in passages:
        print(json.dumps(asdict(passage), ensure_ascii=False))


if __name__ == "__main__":
    main()
