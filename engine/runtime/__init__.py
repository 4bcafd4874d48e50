"""Runtimes: from a description of a process and its sandbox to a running one. Thin: what is allowed is decided above."""
