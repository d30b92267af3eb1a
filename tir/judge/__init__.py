"""The judge: a language model that reads answers which rules cannot settle.

`prompt` words the request and reads the reply, `client` speaks to any OpenAI-compatible server, `cache` remembers
verdicts, `sidecar` starts a server beside a job, `server` is a small one for a laptop, `run` judges a trace file.
"""
