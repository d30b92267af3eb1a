"""Build a retrieval index from a FlashRAG corpus. Run again to resume an interrupted build."""

from __future__ import annotations

from tir.common.cli import parser, run
from tir.common.records import write_provenance
from tir.common.schema import Device
from tir.config.params import read
from tir.config.retrieval import Retrieval
from tir.retrieval.bm25 import BM25Config
from tir.retrieval.build import build_index
from tir.retrieval.encoder import EncoderConfig
from tir.workflow.digests import code_digest


def main() -> None:
    parse = parser(__doc__)
    parse.add_argument("--corpus", required=True, help="JSON Lines {id, contents}")
    parse.add_argument("--output", required=True, help="index directory")
    parse.add_argument("--encoder", help="model directory of the encoder; a dense index needs one")
    arguments = parse.parse_args()
    given = read(arguments, retrieval=Retrieval, device=Device)
    if given.retrieval.backend == "dense":
        config = EncoderConfig(**dict(given.retrieval.encoder) | {"model": arguments.encoder, "device": given.device})
    else:
        config = BM25Config()
    build_index(arguments.corpus, arguments.output, config, shard_rows=given.retrieval.shard_rows)
    write_provenance(
        f"{arguments.output}/manifest.json",
        config=arguments.params,
        code=code_digest("scripts.build_index"),
        packages=("torch", "transformers", "bm25s", "numpy"),
    )


if __name__ == "__main__":
    run(main)
