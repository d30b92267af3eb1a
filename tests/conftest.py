"""For all tests."""

import signal

# A shell's background job ignores SIGINT and so would all it starts; what tests interrupt must hear it, as at a terminal.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
