"""Statistics, tables and figures from score records, and a verdict on each of the paper's claims.

Read `statistics` first (intervals and paired tests), then `tables/accuracy` (Table 5).
"""
