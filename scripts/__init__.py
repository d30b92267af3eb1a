"""Thin command-line entries, one per rule: arguments in, one call, an atomic write."""
