"""From text to micro-batches: sources, tokenizer, indexed files, samples, blends.

A file a step, in the order that a token travels:

    sources.py    documents from pinned packages, folders, JSON lines and hub data sets
    tokenizer.py  documents to tokens
    indexed.py    tokens to Megatron's `.bin` and `.idx`
    prepare.py    the three together: one folder, complete or absent
    blend.py      which source gives the next sample
    batches.py    which tokens a sample holds, and which rank reads it

Importing `minimtnlg.data` loads none of them.
"""
