"""What instructions do to a file system: `run`, `transfer` (COPY and ADD), and what both need."""
