"""Figures side by side: our engine, our server, and Docker, Podman and Buildah where they are installed.

Machines are shared and noisy, so runs are interleaved (ours, theirs, ours, theirs ...) and medians are compared. A figure is
never asserted as a test.
"""
