"""The Linux kernel as the engine uses it: system calls, mounts, locks, namespaces, cgroups, netlink, nftables."""
