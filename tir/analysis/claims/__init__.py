"""The paper's claims as data, each tested on this run's records.

`claims.yaml` lists the claims, `evaluators` names the function of each kind of claim (in `scores`, `training` and
`trajectories`), `verdict` has the rules of decision.
Read `verdict` first, then `report`.
"""
