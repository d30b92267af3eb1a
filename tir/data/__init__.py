"""Input data and models: fetch them from a hub, a URL, a local path or the generated world, and check every row.

Read `sources` first. Each file format has one reader: `alpaca`, `rl_rows`, `corpus_rows`, `benchmarks`.
"""
