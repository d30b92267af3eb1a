"""The judge: a language model that decides whether an answer is correct where rules cannot.

`run` judges a trace file (read it first), `prompt` writes the request and parses the reply, `client` talks to any
OpenAI-compatible server, `cache` stores verdicts, `sidecar` starts a server beside a job, `server` is a small server
for a laptop.
"""
