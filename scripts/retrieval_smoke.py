"""Ask a retrieval server three questions; write titles and latency of each (paper, appendix A.5)."""

from __future__ import annotations

from tir.cli import parser, run
from tir.retrieval.sidecar import retrieval_server
from tir.retrieval.smoke import smoke


def main() -> None:
    parse = parser(__doc__)
    parse.add_argument("--index", help="index directory; a server is started for it")
    parse.add_argument("--endpoint", default="none", help="a running server instead, or none")
    parse.add_argument("--log", default="retrieval.log", help="the started server's log")
    parse.add_argument("--output", required=True, help="CSV")
    arguments = parse.parse_args()
    endpoint = None if arguments.endpoint == "none" else arguments.endpoint
    if not (arguments.index or endpoint):
        parse.error("give --index or --endpoint")
    with retrieval_server(arguments.index, endpoint=endpoint, log_path=arguments.log) as endpoint:
        smoke(endpoint, arguments.output)


if __name__ == "__main__":
    run(main)
