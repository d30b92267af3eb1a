"""Send three questions to a retrieval server; write titles and latency of each (paper, appendix A.5)."""

from __future__ import annotations

import json

from tir.common.cli import parser, run
from tir.retrieval.sidecar import RETRIEVAL_HELP, retrieval
from tir.retrieval.smoke import smoke


def main() -> None:
    parse = parser(__doc__)
    parse.add_argument("--index", required=True, help="index directory")
    parse.add_argument("--retrieval", type=json.loads, default={}, help=RETRIEVAL_HELP)
    parse.add_argument("--log", default="retrieval.log", help="log file of the started server")
    parse.add_argument("--output", required=True, help="CSV file to write")
    arguments = parse.parse_args()
    with retrieval(arguments.index, log_path=arguments.log, **arguments.retrieval) as endpoint:
        smoke(endpoint, arguments.output)


if __name__ == "__main__":
    run(main)
