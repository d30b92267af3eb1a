"""Web search with Bing's response shape, from a provider, a cassette of recorded answers, or both.

Read `modes` first: it selects the source of the answers.
"""
