"""Ways in that the daemon itself goes and gets. Each acknowledges, or moves its offset, only after the inbox took the rows."""
