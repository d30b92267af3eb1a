"""Build a retrieval index from a FlashRAG corpus; a killed build resumes."""

from __future__ import annotations

from tir.cli import parser, run
from tir.records import write_provenance
from tir.retrieval.build import build_index, index_config


def main() -> None:
    parse = parser(__doc__)
    parse.add_argument("--corpus", required=True, help="JSON Lines {id, contents}")
    parse.add_argument("--output", required=True, help="index directory")
    arguments = parse.parse_args()
    config, shard_rows = index_config(arguments.params)
    build_index(arguments.corpus, arguments.output, config, shard_rows=shard_rows)
    write_provenance(f"{arguments.output}/manifest.json", config=arguments.params,
                     packages=("torch", "transformers", "faiss-cpu", "bm25s", "numpy"))


if __name__ == "__main__":
    run(main)
