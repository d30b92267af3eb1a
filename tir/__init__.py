"""The runtime shared by training and evaluation: protocol, rollout loop, engines, tools, retrieval, scoring."""
