"""Setup for all tests."""

import signal

# A shell's background job ignores SIGINT, and its child processes inherit that. Tests interrupt child processes with
# SIGINT, so restore the handler.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
