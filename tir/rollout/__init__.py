"""Generation of trajectories: the protocol's tags, the loop that calls tools, the engines and the helpers.

Training and evaluation use the same loop. Read `protocol` first, then `loop`.
"""
