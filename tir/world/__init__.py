"""A generated world for small machines: fictional entities, passages, questions, problems, and a tiny model.

Read `files` first: it writes the world in the upstream file formats.
"""
