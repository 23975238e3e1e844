"""Whether what a stop needs is still there when it comes: order and jobs. systemd.unit(5)."""

from collections.abc import Iterator

from capbg.cli.units.findings import Finding, Level
from capbg.cli.units.load import Unit

from .facts import found, kind, on

_NETWORK = {"network.target", "network-online.target", "nss-lookup.target", "remote-fs.target"}


def _listed(unit: Unit, *keys: str) -> set[str]:
    return {word for key in keys for each in unit.all("Unit", key) for word in each.value.split()}


def network(unit: Unit) -> Iterator[Finding]:
    """A shutdown stops in reverse order."""
    if not _listed(unit, "After") & _NETWORK and not on(unit, "PrivateNetwork") and not unit.user:
        yield found(
            Level.NOTE,
            "network",
            unit,
            "A shutdown stops units in the reverse order of their start: the network may be gone before tasks have "
            "finished.",
            fix="Write After=network.target in [Unit] if a task needs the network.",
            what="no After=network.target",
        )


def network_online(unit: Unit) -> Iterator[Finding]:
    """After= alone brings nothing up."""
    target = "network-online.target"
    setting = next((each for each in unit.all("Unit", "After") if target in each.value.split()), None)
    if setting and target not in _listed(unit, "Wants", "Requires", "BindsTo", "Requisite"):
        yield found(
            Level.NOTE,
            "network-online",
            setting,
            "After= orders, and starts nothing: unless another unit wants that target, nothing waits for the network.",
            fix=f"Write Wants={target} beside it.",
        )


def dependencies(unit: Unit) -> Iterator[Finding]:
    """A service that no shutdown stops."""
    setting = unit.last("Unit", "DefaultDependencies")
    if setting and not on(unit, "DefaultDependencies", section="Unit", default=True):
        if "shutdown.target" in _listed(unit, "Conflicts") or kind(unit) == "oneshot":
            return
        yield found(
            Level.WARNING,
            "default-dependencies",
            setting,
            "At a shutdown nothing stops it in order: it gets its SIGTERM at the very end, when file systems are "
            "unmounted and the notify socket and the journal are gone.",
            fix="Take DefaultDependencies= out, or add Conflicts=shutdown.target and Before=shutdown.target.",
        )


def job_timeout(unit: Unit) -> Iterator[Finding]:
    """A job's timeout does not end a service."""
    for key in ("JobTimeoutSec", "JobRunningTimeoutSec"):
        setting = unit.last("Unit", key)
        if setting:
            yield found(
                Level.NOTE,
                "job-timeout",
                setting,
                "It fails the job, so that systemctl returns; the service itself goes on undisturbed.",
                fix="TimeoutStopSec= is what ends a stop.",
            )
