"""The paper's claims as data, and what this run's records say of each.

`claims.yaml` holds the sentences, `evaluators` one small function per kind of claim, `verdict` what may be concluded.
"""
