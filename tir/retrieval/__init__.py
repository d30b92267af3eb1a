"""Exact passage retrieval: build an index, search it, serve it over HTTP, and query the server with a client.

Read `index` first (the interface of both backends, dense and BM25), then `server`.
"""
