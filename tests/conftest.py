"""What of this folder is no test: scripts that run in another tool's environment, and import what is only there."""

collect_ignore = ["bench/drift_peer.py", "bench/estimate_peer.py", "bench/quality/delay_peer.py"]
