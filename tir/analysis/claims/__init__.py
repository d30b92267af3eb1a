"""The paper's claims as data, each tested on this run's records.

`claims.yaml` lists the claims, `evaluators` has one function per kind of claim, `verdict` the rules of decision.
Read `verdict` first, then `report`.
"""
