"""What the service manager itself is told: DefaultTimeoutStopSec= of its configuration, systemd-system.conf(5).

It knows where that configuration lies beside the units; it knows no unit.
"""

import contextlib
import os
from pathlib import Path

from . import values
from .load import conf_files, content, load_path
from .syntax import Setting, parse_drop_in


def default_stop(*, user: bool) -> Setting | None:
    """Return the DefaultTimeoutStopSec= that holds; None: systemd's own, 90 s.

    Each directory of units has the configuration beside it: ``/etc/systemd/system.conf`` and ``system.conf.d`` beside
    ``/etc/systemd/system``. So SYSTEMD_UNIT_PATH names another machine's configuration along with its units.

    Raises:
        UnitFileError: a file of it cannot be read.
    """
    name = "user" if user else "system"
    places = [folder.parent for folder in load_path(user=user) if folder.name == name]
    main = [place / f"{name}.conf" for place in places if os.path.isfile(place / f"{name}.conf")][:1]
    drop_ins = [path for path in conf_files([place / f"{name}.conf.d" for place in places]) if os.path.isfile(path)]
    holds = None
    for path in [*main, *drop_ins]:
        for setting in _settings(path):
            # Measured on 252: what is empty or no time is ignored, and what was set before holds.
            with contextlib.suppress(ValueError):
                values.span(setting.value)
                holds = setting
    return holds


def _settings(path: Path) -> list[Setting]:
    settings, _, _ = parse_drop_in(content(path), str(path))
    return [each for each in settings if (each.section, each.key) == ("Manager", "DefaultTimeoutStopSec")]
