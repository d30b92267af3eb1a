"""Functions that the Snakemake rules call: code digests, inputs of each table, costs, preflight checks, images.

Nothing here imports Snakemake. Read `digests` first: it determines which jobs run again after an edit.
"""
