"""Setup for all tests."""

import signal

# A shell's background job ignores SIGINT, and its child processes inherit that. Tests interrupt child processes with
# SIGINT, so restore the handler.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Start with the random edits, which take longest: started last, they would run alone on one core."""
    items.sort(key=lambda item: item.path.name != "test_edits.py")
