"""Tool-integrated reasoning (TIR): the runtime that training and evaluation share.

The first lines of each folder say what it contains and which file to read first.
In the following line, a folder imports only from those on its right (but `rl` uses `workflow/digests`):

workflow, dpo, rl, synthesis > sft, analysis, world > rollout, scoring > config > tools > retrieval, data > common
"""
