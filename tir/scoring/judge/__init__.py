"""The judge: a language model that decides whether an answer is correct where rules cannot.

Read `run` first: it judges a trace file. `prompt` writes the request and parses the reply, `client` sends it to an
OpenAI-compatible server, and `cache` stores verdicts. `sidecar` starts a server beside a job, `server` is a small
server for a laptop.
"""
