"""Command-line scripts, one per rule: each parses its arguments, makes one call, and writes its output atomically."""
