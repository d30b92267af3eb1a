"""Modules that all other packages use: typed errors, records on disk, HTTP with retries, subprocesses, time limits.

Read `errors` first (one exception type per cause), then `records` (JSON Lines that an interrupted job can continue).
"""
