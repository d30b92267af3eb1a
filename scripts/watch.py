"""Serve TensorBoard on the loopback address for the training runs of this folder; `make watch` runs it."""

import argparse
import sys
import time
from pathlib import Path

from tensorboard import program

from tir.workflow.curves import Curves


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--root", default=".", help="folder of the workflow")
    parse.add_argument("--directory", default="tracking", help="`site.tracking.directory`")
    parse.add_argument("--port", default="6006", help="port; 0: any free one")
    parse.add_argument("--every", type=float, default=10.0, help="seconds between two looks at the runs")
    arguments = parse.parse_args()
    tracking = Path(arguments.root, arguments.directory)
    curves = Curves(Path(arguments.root), tracking / "tensorboard", tracking / "curves")
    found = curves.update() + [path.name for path in (tracking / "tensorboard").glob("*/")]
    print(f"runs: {', '.join(sorted(found)) or 'none yet'}", file=sys.stderr)
    board = program.TensorBoard()
    folders = f"trainer:{tracking / 'tensorboard'},records:{tracking / 'curves'}"
    options = ["--host", "127.0.0.1", "--port", arguments.port, "--reload_interval", str(int(arguments.every))]
    board.configure(argv=[None, "--logdir_spec", folders, *options])
    print(f"TensorBoard: {board.launch()}   (Ctrl-C ends it)", file=sys.stderr, flush=True)
    try:
        while True:
            time.sleep(arguments.every)
            curves.update()
    except KeyboardInterrupt:
        curves.close()


if __name__ == "__main__":
    main()
