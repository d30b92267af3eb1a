"""Logger plugin for Snakemake, used by `make demo`: prints the lines of `tir/workflow/progress.py` and nothing else.

Snakemake finds a plugin by its name on the import path: PYTHONPATH=envs/plugins snakemake --logger stages ...
"""

import logging
import sys
import threading
from pathlib import Path

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from tir.workflow.progress import Progress

# Snakemake's own messages that are printed as well, by their first words.
SHOWN = ("Nothing to be done", "Terminating processes", "Complete log")


class LogHandler(LogHandlerBase):
    """Passes Snakemake's events to `Progress`. Snakemake writes everything to its own log file too."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False

    def __post_init__(self) -> None:
        self._progress = Progress(self._say)
        self._cores = 1
        self._ended = threading.Event()
        threading.Thread(target=self._wait, daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Called by Snakemake for every record, under the handler's lock."""
        try:
            self._handle(record)
        except Exception:
            self.handleError(record)

    def _handle(self, record: logging.LogRecord) -> None:
        match getattr(record, "event", None):
            case LogEvent.RESOURCES_INFO:
                self._cores = getattr(record, "cores", None) or self._cores
            case LogEvent.RUN_INFO:
                jobs = {rule: count for rule, count in record.stats.items() if rule != "total"}
                self._progress.plan(jobs, self._cores)
            case LogEvent.JOB_INFO:
                self._progress.start(record.jobid, record.rule_name, record.wildcards, record.log, record.threads)
            case LogEvent.JOB_FINISHED:
                self._progress.finish(record.job_id)
            case LogEvent.JOB_ERROR:
                self._progress.fail(record.jobid, record.rule_name, record.log)
            case LogEvent.ERROR:
                if record.exception != "RuleException":  # JOB_ERROR reports a failed job
                    self._say(record.getMessage())
            case None:
                message = record.getMessage()
                if record.levelno >= logging.WARNING or message.startswith(SHOWN):
                    self._say(message)

    def close(self) -> None:
        """Called by Snakemake at the end of the run."""
        self._ended.set()
        super().close()

    def _wait(self) -> None:
        while not self._ended.wait(1.0):
            with self.lock:
                self._progress.wait()

    def _say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)
