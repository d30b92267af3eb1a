"""The configuration as pydantic models: every key has a description and a range; errors show the YAML to paste.

One file per section of config.yaml; read `experiment` first, which combines and loads them. A stage imports only the
sections that it reads. Threads, paths and clusters are in profiles, not here.
"""
