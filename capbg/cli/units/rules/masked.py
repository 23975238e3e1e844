"""A unit that is masked: what that means, and what ends it. systemctl(1), "mask"."""

from pathlib import Path

from capbg.cli.units.findings import Finding, Level
from capbg.cli.units.load import Unit

from .facts import found

_UNMASKED_BY = {
    "/etc/systemd/system": "systemctl unmask",
    "/run/systemd/system": "systemctl unmask --runtime",
    "/etc/systemd/user": "systemctl --global unmask",
    "/run/systemd/user": "systemctl --global unmask --runtime",
}
"""What removes a mask, by where it lies. Measured on 252: elsewhere `unmask` does nothing and says nothing."""


def masked(unit: Unit) -> Finding:
    """Return the only thing that can be said of it: nothing of it runs, so nothing can be lost."""
    folder = unit.path.parent
    if command := _UNMASKED_BY.get(str(folder)):
        fix = f"{command} {unit.name}, unless that is meant."
    elif unit.user and folder.parts[-2:] == ("systemd", "user") and not folder.is_relative_to("/usr"):
        fix = f"systemctl --user unmask {unit.name}, unless that is meant."
    elif unit.installed:
        own = Path("/etc/systemd/user" if unit.user else "/etc/systemd/system")
        fix = (
            f"Nothing, if that is meant. `systemctl unmask` leaves {folder} alone; what ends it is a unit file "
            f"{own / unit.name}, which takes its place."
        )
    else:
        fix = "Nothing, if that is meant; else put a unit in its place."
    why = "Its file is empty or a link to /dev/null: systemd refuses to start it, and there is nothing to check."
    return found(Level.NOTE, "masked", unit, why, fix=fix, what=f"{unit.name} is masked")
