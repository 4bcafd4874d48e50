"""Layers: tar archives to folders and back, and how they are packed.

`confined` unpacks, `diff` packs, `tar` reads and writes, `compression` stands before both. Nothing is imported here: the
process that unpacks archives shall load only what it uses.
"""
