#!/bin/sh
# Broken on purpose: the shell is what systemd signals and hears; the kiosk is only its child.
# Mend: `exec python3 ...`, or no shell at all.
python3 "$(dirname "$0")/../kiosk.py" --outbox "${TMPDIR:-/tmp}/broken-outbox" --database /dev/null "$@"
echo "the kiosk has left"
