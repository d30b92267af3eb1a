"""Adaptations of verl and vLLM to machines without a GPU; nothing here is used with `device: cuda`.

Read `platform` first: verl's platform plug-in for the device "cpu".
"""
