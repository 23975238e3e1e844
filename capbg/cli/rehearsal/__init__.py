"""A service manager for one command: what systemd would do to it, done here, and written down."""
