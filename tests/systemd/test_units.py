"""The units in systemd/ and the page about them: verified, scored, and put to work as they are shipped.

They run the kiosk of examples/ against its photo server. One thing is added where the interpreter lives below a home
directory or in /tmp: ProtectHome= or PrivateTmp= would hide it, and what they hide is handed in by a drop-in. Nothing
is taken away.
"""

import contextlib
import hashlib
import importlib.util
import inspect
import json
import re
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import capbg
from capbg._core.grace import DUPLICATE_NS
from capbg._core.notices import BEAT_NS, EXIT_MARGIN_NS, EXTENSION_NS
from capbg._core.words import NS
from tests.probe import PREAMBLE

from .bed import CHECKOUT, Bed, BedError, Outcome, Service
from .programs import ended

UNITS = CHECKOUT / "systemd"
SHIPPED = sorted(path.name for path in UNITS.iterdir() if path.suffix in {".service", ".socket"})
INSTANCE = "capbg@kiosk.service"
HARDENED_NEEDS = ["kiosk-hardened.service", "kiosk-line.socket", "kiosk-line.service"]
KIOSKS = ["kiosk.service", "kiosk-hardened.service", INSTANCE]
HOMES = tuple(map(Path, ("/home", "/root", "/run/user")))
TMPS = tuple(map(Path, ("/tmp", "/var/tmp")))  # what PrivateTmp= replaces, and DynamicUser= with it
RATE = 1_000_000
LEAVING_S = 10
"""What TimeoutStopSec= leaves beyond the last hard expiry: tests/systemd/test_timeouts.py shows what comes of less."""


def settings(unit: str) -> dict[str, list[str]]:
    """Return the settings of a shipped unit, each with its values in order."""
    found: dict[str, list[str]] = {}
    for line in (UNITS / unit).read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def environment(unit: str) -> dict[str, str]:
    """Return what a shipped unit puts into the environment."""
    return dict(pair.split("=", 1) for pair in settings(unit).get("Environment", []))


class Machine:
    """A box with the kiosk in /opt, units as shipped, and a photo server that listens on 127.0.0.1:8000."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        program = bed.root / "opt/kiosk"
        program.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / "examples/kiosk.py", program)
        (program / "venv").unlink(missing_ok=True)
        (program / "venv").symlink_to(sys.prefix)
        self._photos = Path(tempfile.mkdtemp(dir=bed.scratch))

    def install(self, *units: str) -> None:
        """Install units as shipped, and what they need."""
        needed = {part for unit in units for part in (HARDENED_NEEDS if unit == "kiosk-hardened.service" else [unit])}
        for unit in needed:
            name = "capbg@.service" if unit == INSTANCE else unit
            self.bed.unit(name, (UNITS / name).read_text())
            if unit in KIOSKS:
                self._hand_in_what_is_hidden(unit)
        if INSTANCE in needed:
            # An active unit keeps what it is ordered after loaded; the bed cannot do that for a template's instance.
            self.bed.unit("pins.target", f"[Unit]\nAfter={INSTANCE}\n")
            self.bed.start("pins.target")

    def _hand_in_what_is_hidden(self, unit: str) -> None:
        """The interpreter or the checkout may lie where a unit does not look: below a home directory, or in /tmp."""
        home = [str(path) for path in self.bed.binds if any(path.is_relative_to(each) for each in HOMES)]
        tmp = [str(path) for path in self.bed.binds if any(path.is_relative_to(each) for each in TMPS)]
        if home and unit == "kiosk-hardened.service":
            self.drop_in(unit, "interpreter", ProtectHome="tmpfs", BindReadOnlyPaths=[*home, *tmp])
        elif tmp:
            self.drop_in(unit, "interpreter", BindReadOnlyPaths=tmp)

    def serve(self) -> None:
        """Start the photo server. At a shutdown it outlives the kiosk, as a server elsewhere does."""
        server = self.bed.python_service(
            "photo-server",
            "",
            unit={"Before": ["kiosk-line.service", *KIOSKS]},
            ExecStart=f"{sys.executable} -u {CHECKOUT}/examples/photo_server.py --folder {self._photos} --rate {RATE}",
        )
        server.start()
        server.says("listening on http://127.0.0.1:8000")

    def close(self) -> None:
        """Take everything away again."""
        for verb in (["stop", "--no-block"], ["kill", "--signal=KILL"], ["stop"], ["reset-failed"]):
            self.bed.run("systemctl", *verb, INSTANCE, check=False)
        print(self.bed.journal_text(INSTANCE))
        print(self.bed.clear())
        units = [f"/etc/systemd/system/{name}" for name in ("capbg@.service", f"{INSTANCE}.d")]
        self.bed.run("rm", "-rf", "/opt/kiosk", "/var/lib/kiosk", "/var/lib/private/kiosk", *units)

    def drop_in(self, unit: str, name: str, **values: str | list[str]) -> None:
        """Add to a unit's [Service]."""
        lines = [f"{key}={one}" for key, value in values.items() for one in ([value] if value == str(value) else value)]
        self.bed.unit(f"{unit}.d/{name}.conf", "\n".join(["[Service]", *lines, ""]))

    def run(self, unit: str) -> "Run":
        """Start a unit."""
        self.bed.start(unit)
        return Run(Service(self.bed, unit))

    def fill(self, count: int) -> dict[str, bytes]:
        """Leave photos in the outbox, as an earlier run does that was stopped before it had sent them."""
        outbox = self.bed.root / "var/lib/kiosk/outbox"
        outbox.mkdir(parents=True)
        photos = {f"{number:04}.jpg": bytes([number]) * (RATE // 2) for number in range(count)}
        for name, content in photos.items():
            (outbox / name).write_bytes(content)
        return photos

    def outbox(self) -> list[str]:
        """What the kiosk has yet to send."""
        return sorted(path.name for path in (self.bed.root / "var/lib/private/kiosk/outbox").iterdir())

    def visits(self) -> dict[str, str]:
        """Photos and their checksums in the kiosk's journal, which a worker writes at the stop."""
        database = self.bed.root / "var/lib/private/kiosk/journal.sqlite"
        with contextlib.closing(sqlite3.connect(":memory:")) as connection:
            connection.deserialize(database.read_bytes())  # SQLite would follow /proc/PID/root to this side's root
            return dict(connection.execute("SELECT photo, sha256 FROM visits"))

    def stored(self) -> dict[str, bytes]:
        """What has reached the server, whole."""
        return {path.name: path.read_bytes() for path in self._photos.glob("[!.]*")}


class Run:
    """One run of a unit: the journal of a shared box also knows earlier ones under the same name."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._invocation = service.show("InvocationID")["InvocationID"]

    def lines(self) -> list[str]:
        """Return what it has printed so far."""
        return [
            entry["MESSAGE"]
            for entry in self.service.journal()
            if entry.get("_SYSTEMD_INVOCATION_ID") == self._invocation and entry.get("_TRANSPORT") == "stdout"
        ]

    def says(self, text: str) -> str:
        """Wait until it has printed a line with this text, and return that line."""
        return self.service.bed.wait_for(
            lambda: next((line for line in self.lines() if text in line), None), f"{text!r} from {self.service.unit}"
        )

    def taken(self) -> set[str]:
        """The photos it has taken itself."""
        return {line.split()[1] for line in self.lines() if line.startswith("took ")}


@pytest.fixture
def machine(bed: Bed) -> Iterator[Machine]:
    """The shared box, with the kiosk installed for one test."""
    installed = Machine(bed)
    try:
        yield installed
    finally:
        installed.close()


def _tasks(outcome: Outcome) -> tuple[int, int]:
    """How many tasks have finished, and of how many, by the last status text."""
    told = re.fullmatch(r"backgrounded: (\d+) of (\d+) tasks? finished", outcome.status_text)
    assert told, outcome.status_text
    return int(told[1]), int(told[2])


# --------------------------------------------------------------------------------------- what systemd thinks of them


def _verify(bed: Bed, unit: str) -> tuple[int, str]:
    name = INSTANCE if unit == "capbg@.service" else unit
    done = bed.run(
        *("systemd-analyze", "verify", "--recursive-errors=no", f"/etc/systemd/system/{unit}:{name}"), check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_every_unit_verifies_without_a_warning(machine: Machine) -> None:
    """`systemd-analyze verify` has nothing to say of any unit, where the programs they name are installed."""
    machine.install(*SHIPPED)

    assert dict.fromkeys(SHIPPED, (0, "")) == {unit: _verify(machine.bed, unit) for unit in SHIPPED}


@pytest.mark.parametrize("unit", ["kiosk.service", "capbg@.service"])
def test_a_warning_would_be_seen(machine: Machine, unit: str) -> None:
    """A misspelt setting and a program that does not exist are found by what the test above asks."""
    machine.install(unit)
    text = (UNITS / unit).read_text()
    machine.bed.unit(unit, text.replace("\nTimeoutStopSec=", "\nTimeoutStopSecs="))
    misspelt = _verify(machine.bed, unit)
    machine.bed.unit(unit, text.replace("/bin/python", "/bin/pythom"))
    missing = _verify(machine.bed, unit)

    assert "TimeoutStopSecs" in misspelt[1]
    assert missing[0] == 1
    assert "pythom is not executable" in missing[1]


def test_the_hardened_unit_scores_three_tenths_at_most(machine: Machine) -> None:
    """`systemd-analyze security` gives the hardened unit 0.3 or less; the plain one is above that."""
    machine.install("kiosk-hardened.service", "kiosk.service")
    score = ["systemd-analyze", "security", "--offline=true", "--threshold=3"]
    hardened = machine.bed.run(*score, "/etc/systemd/system/kiosk-hardened.service", check=False)
    plain = machine.bed.run(*score, "/etc/systemd/system/kiosk.service", check=False)

    assert re.search(r"Overall exposure level for kiosk-hardened.service: 0\.[0-3] ", hardened.stdout), hardened
    assert (0, 1) == (hardened.returncode, plain.returncode)


# ------------------------------------------------------------------------------------------------------- at work


@pytest.mark.parametrize("unit", KIOSKS)
def test_a_stopped_kiosk_has_sent_everything(machine: Machine, unit: str) -> None:
    """As shipped: photos of an earlier run and its own are on the server after a stop, each whole; status 0."""
    machine.install(unit)
    left = machine.fill(4)
    machine.serve()
    run = machine.run(unit)
    run.says("took ")
    outcome = run.service.stop()

    stored, taken = machine.stored(), run.taken()
    finished, total = _tasks(outcome)
    assert ("success", "exited", 0) == ended(outcome), machine.bed.journal_text(unit)
    assert finished == total >= 1
    assert left.keys() | taken == stored.keys()
    assert left == {name: stored[name] for name in left}
    assert {name: hashlib.sha256(stored[name]).hexdigest() for name in taken} == machine.visits()
    assert [] == machine.outbox()


@pytest.mark.parametrize(("unit", "result"), [("kiosk-hardened.service", "success"), (INSTANCE, "exit-code")])
def test_a_printer_that_hangs_is_left_behind_and_told(machine: Machine, unit: str, result: str) -> None:
    """One task hangs: `systemctl status` says how far it is, it is killed on time, the rest is done; status 75."""
    machine.install(unit)
    (command,) = settings("kiosk.service")["ExecStart"]
    machine.drop_in(unit, "printer", ExecStart=["", f"{command} --printer-hangs"])
    machine.serve()
    run = machine.run(unit)
    run.says("took ")
    machine.bed.systemctl("stop", "--no-block", unit)
    machine.bed.wait_for(
        lambda: re.search(
            r'Active: deactivating(.|\n)*Status: "backgrounded: \d+ of \d+ tasks finished, (.+ %, )*\d+ s left"',
            machine.bed.run("systemctl", "status", unit, check=False).stdout,
        ),
        "the live text in systemctl status",
    )
    outcome = run.service.wait()

    finished, total = _tasks(outcome)
    assert (result, "exited", 75) == ended(outcome)
    assert finished == total - 1
    assert run.taken() == machine.stored().keys() == machine.visits().keys()
    # The app and the kernel hold the hard deadline side by side: either may be the first.
    assert re.search(r"killed: its deadline of 4 s was over; .*killed.* at its hard ", run.says("receipt"))


def test_a_poweroff_leaves_the_hardened_kiosk_its_line(own_bed: Bed) -> None:
    """The whole machine is shut down: the line out is stopped after the kiosk, and everything arrives."""
    machine = Machine(own_bed)
    machine.install("kiosk-hardened.service")
    left = machine.fill(4)
    machine.serve()
    run = machine.run("kiosk-hardened.service")
    run.says("took ")
    own_bed.poweroff()

    stored = machine.stored()
    assert left.keys() | run.taken() == stored.keys()
    assert left == {name: stored[name] for name in left}
    assert re.search(r": (\d+) of \1 finished", run.says("grace period over"))


LIMITED = """
    import ctypes
    from capbg import systemd

    app = capbg.App("limited", kill_after=1)

    @app.background_task(limits=capbg.Limits(nice=5))
    def nice(task):
        signal_on_death = ctypes.c_int()
        ctypes.CDLL(None).prctl(2, ctypes.byref(signal_on_death))  # PR_GET_PDEATHSIG
        say("NICE", os.getpriority(os.PRIO_PROCESS, 0), "PDEATHSIG", signal_on_death.value)
        say("WORKER", systemd.is_service(), systemd.watchdog_interval(), systemd.unit_grace())

    @app.background_task(limits=capbg.Limits(memory="64M"))
    def memory(task):
        bytearray(1 << 30)

    @app.background_task(limits=capbg.Limits(files=4))
    def files(task):
        for _ in range(64):
            os.open("/dev/null", os.O_RDONLY)

    @app.background_task(limits=capbg.Limits(file_size="64K"))
    def file_size(task):
        with open(os.environ["STATE_DIRECTORY"] + "/large", "wb", buffering=0) as large:
            for _ in range(8):
                large.write(bytes(1 << 14))

    @app.background_task(limits=capbg.Limits(cpu=1))
    def cpu(task):
        while True:
            pass

    @app.background_task(deadline=1)
    def deadline(task):
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            time.sleep(0.05)

    try:
        with app:
            say("APP", systemd.is_service(), systemd.watchdog_interval(), systemd.unit_grace())
            while True:
                app.heartbeat()
                time.sleep(0.05)
    finally:
        report(app)
"""


def test_every_limit_holds_in_the_hardened_unit(machine: Machine) -> None:
    """Under the shipped sandbox each kind of limit and the deadline strike, and the program is told what it is in."""
    machine.install("kiosk-hardened.service")
    program = machine.bed.scratch / "limited.py"
    program.write_text(PREAMBLE + inspect.cleandoc(LIMITED))
    program.chmod(0o644)
    machine.drop_in("kiosk-hardened.service", "program", ExecStart=["", f"/opt/kiosk/venv/bin/python {program}"])
    run = machine.run("kiosk-hardened.service")
    run.says("APP")
    outcome = run.service.stop()

    lines = run.lines()
    told = next(line for line in lines if line.startswith("REPORT"))
    found = {each["name"]: each for each in json.loads(told.removeprefix("REPORT"))["results"]}
    assert "APP True 60.0 180.0" in lines
    assert "WORKER False None 180.0" in lines
    assert "NICE 5 PDEATHSIG 9" in lines
    assert ["FINISHED", "FAILED", "FAILED", "FAILED", "EXPIRED", "KILLED"] == [
        found[name]["outcome"] for name in ("nice", "memory", "files", "file_size", "cpu", "deadline")
    ]
    assert ("MemoryError", "OSError", "OSError") == tuple(
        found[name]["error_type"] for name in ("memory", "files", "file_size")
    )
    assert found["files"]["error_message"].startswith("[Errno 24]")
    assert found["file_size"]["error_message"].startswith("[Errno 27]")
    assert "its CPU limit was reached" == found["cpu"]["reason"]
    assert not [line for line in lines if "could not be" in line]
    assert ("success", "exited", 75) == ended(outcome)
    assert (1, 6) == _tasks(outcome)


def test_a_grace_that_is_no_number_fails_the_start(machine: Machine) -> None:
    """An operator's slip in CAPBG_GRACE fails the start with status 1, in a sentence in the unit's journal."""
    machine.install("kiosk.service")
    machine.drop_in("kiosk.service", "slip", Environment="CAPBG_GRACE=soon", Restart="no")
    with pytest.raises(BedError, match="CAPBG_GRACE must be a number of seconds above 0, such as 180, not 'soon'"):
        machine.run("kiosk.service")

    assert ("exit-code", "exited", 1) == ended(Service(machine.bed, "kiosk.service").result())


def test_a_program_knows_whether_systemd_started_it(bed: Bed) -> None:
    """True in a unit, before v248 as well; False behind a shell, which is what systemd then signals and hears."""
    source = """
    from capbg import systemd
    print("ANSWERS", systemd.is_service(), systemd.watchdog_interval())
    """
    direct = bed.python_service("direct", source, WatchdogSec=30)
    old = bed.python_service("old", source, WatchdogSec=30, UnsetEnvironment="SYSTEMD_EXEC_PID")
    behind = bed.python_service("behind", source, WatchdogSec=30)
    (command,) = (line for line in _unit_text(bed, behind).splitlines() if line.startswith("ExecStart="))
    shell = command.removeprefix("ExecStart=").replace('"', "")
    bed.unit(f"{behind.unit}.d/shell.conf", f"[Service]\nExecStart=\nExecStart=/bin/sh -c '{shell}; true'\n")
    for service in (direct, old, behind):
        service.start()

    assert "ANSWERS True 30.0" == direct.says("ANSWERS")
    assert "ANSWERS True 30.0" == old.says("ANSWERS")
    assert "ANSWERS False None" == behind.says("ANSWERS")


def _unit_text(bed: Bed, service: Service) -> str:
    return (bed.root / "etc/systemd/system" / service.unit).read_text()


# ------------------------------------------------------------------------------------------------ what they say


@pytest.mark.parametrize("unit", SHIPPED)
def test_each_setting_has_its_reason_above_it(unit: str) -> None:
    """Every setting but a description stands below a comment of one line."""
    lines = (UNITS / unit).read_text().splitlines()
    bare = [
        line
        for above, line in zip(["", *lines], lines, strict=False)
        if re.match(r"(?!Description)\w+=", line) and not re.match(r"# \S", above)
    ]

    assert [] == bare
    assert [] == [line for line in lines if len(line) > 120]


@pytest.mark.parametrize("unit", ["kiosk.service", "kiosk-hardened.service", "capbg@.service"])
def test_the_timeout_covers_the_whole_grace_period(unit: str) -> None:
    """TimeoutStopSec= covers grace, kill_after and leaving, without extensions; the watchdog the kiosk's silences."""
    (timeout,) = settings(unit)["TimeoutStopSec"]
    kill_after = inspect.signature(capbg.App).parameters["kill_after"].default

    assert float(timeout) == float(environment(unit)["CAPBG_GRACE"]) + kill_after + LEAVING_S
    assert all(float(watchdog) > 2 * _kiosk_patience_s() for watchdog in settings(unit).get("WatchdogSec", []))


def _kiosk_patience_s() -> float:
    spec = importlib.util.spec_from_file_location("kiosk", CHECKOUT / "examples/kiosk.py")
    assert spec is not None
    assert spec.loader is not None
    kiosk = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kiosk)
    return float(kiosk.LINE_PATIENCE_S)


def test_the_units_agree_about_the_moment_to_finish() -> None:
    """What concerns a stop is the same in all three, but for what the template leaves to each program."""
    of_a_stop = [
        *("Type", "NotifyAccess", "KillMode", "TimeoutStopSec", "Restart", "RestartSec", "OOMPolicy"),
        *("WatchdogSec", "SuccessExitStatus"),
    ]
    plain, hardened, template = (
        {name: settings(unit).get(name) for name in of_a_stop}
        for unit in ("kiosk.service", "kiosk-hardened.service", "capbg@.service")
    )

    assert plain == hardened
    assert plain | {"WatchdogSec": None, "SuccessExitStatus": None} == template


# --------------------------------------------------------------------------------------------------- the page


def _readme() -> str:
    return (UNITS / "README.md").read_text()


def _table() -> dict[str, tuple[str, str]]:
    """The README's settings: systemd's default, and what the units say."""
    rows = re.findall(r"^\| `(\w+)=?` \| (?:`([^`]*)`)? ?\| (?:`([^`]*)`)? ?\|", _readme(), re.MULTILINE)
    return {name: (default, here) for name, default, here in rows}


def test_the_readme_tells_what_the_units_say() -> None:
    """Each row of its table agrees with the plain and the hardened unit; a row without a value is in neither."""
    table = {name: here for name, (_, here) in _table().items()}

    assert len(table) >= 12
    for unit in ("kiosk.service", "kiosk-hardened.service"):
        found = {name: values[0] for name, values in settings(unit).items()} | environment(unit)
        assert table == {name: found.get(name, "") for name in table}


def test_the_readme_tells_systemds_defaults(bed: Bed) -> None:
    """Each default in its table is what this systemd says of a unit that sets nothing."""
    bed.unit("bare.service", "[Service]\nExecStart=/bin/true\n")
    told = bed.show("bare.service")
    spelt = {"1min 30s": "90", "100ms": "0.1", "infinity": "0"}
    # systemctl tells durations under another name, and SuccessExitStatus= as two arrays.
    told |= {name: told[name.replace("Sec", "USec")] for name in ("TimeoutStopSec", "RestartSec", "WatchdogSec")}
    asked = _table().keys() - {"SuccessExitStatus", "CAPBG_GRACE"}

    assert {name: spelt.get(told[name], told[name]) for name in asked} == {name: _table()[name][0] for name in asked}
    assert _table()["CAPBG_GRACE"][0] == f"{inspect.signature(capbg.App).parameters['grace'].default:g}"


def test_the_readme_tells_capbgs_numbers() -> None:
    """The rhythm it describes is the one in the code."""
    text = " ".join(_readme().split())
    kill_after = inspect.signature(capbg.App).parameters["kill_after"].default

    assert f"speaks once every {BEAT_NS / NS:g} s: the next extension, which lasts {EXTENSION_NS / NS:g} s" in text
    assert f"no more than {EXIT_MARGIN_NS / NS:g} s beyond the last instant" in text
    assert f"killed {kill_after:g} s later (`kill_after`)" in text
    assert f"at least `CAPBG_GRACE` + {kill_after:g} (`kill_after`) + {LEAVING_S} to leave" in text
    assert f"a second SIGTERM, more than {DUPLICATE_NS / NS:g} s after the first" in text
    assert f"set to `WatchdogSec=`, or to {EXTENSION_NS / NS:g} s if that is more" in text


def test_the_readme_names_the_units_there_are() -> None:
    """Every unit it names is shipped, and every shipped one is named."""
    named = set(re.findall(r"`([\w@-]+\.(?:service|socket))`", _readme()))

    assert set(SHIPPED) == named - {"user@.service"}
