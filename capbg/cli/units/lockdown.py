"""The settings that lock a service in, each with its reason: as in systemd/kiosk-hardened.service, but with a network.

Only a table, by what is taken away. What depends on the service (its user, its directories) stands in ``write.py``.
"""

Pair = tuple[str, str | None]
"""Why, and the setting itself; None: why there is none."""

POWERLESS: tuple[Pair, ...] = (
    ("The rest of the machine's users do not exist for it.", "PrivateUsers=yes"),
    ("No set-user-ID program, no file capability can raise it again.", "NoNewPrivileges=yes"),
    (
        "No privilege is needed: signals, timers, rlimits and a greater niceness of one's own children need none.",
        "CapabilityBoundingSet=",
    ),
    ("No way to make a set-user-ID file.", "RestrictSUIDSGID=yes"),
)
STATE_MODES: tuple[Pair, ...] = (
    ("Nobody else reads what it keeps there.", "StateDirectoryMode=0700"),
    ("Nor what it makes elsewhere.", "UMask=0077"),
)
SIGHT: tuple[Pair, ...] = (
    ("No hardware. A camera needs PrivateDevices=no and DeviceAllow=/dev/video0 rw.", "PrivateDevices=yes"),
    ("Nor by way of a device node that it finds elsewhere.", "DevicePolicy=closed"),
    ("Its own processes only: capbg looks at none but its own.", "ProtectProc=invisible"),
    (
        "/proc without the machine's figures. A program that reads /proc/meminfo or /proc/stat drops this line.",
        "ProcSubset=pid",
    ),
    ("Mounts it should make do not get out.", "PrivateMounts=yes"),
    ("Shared memory and queues of its own...", "PrivateIPC=yes"),
    ("...removed with it.", "RemoveIPC=yes"),
)
NETWORK: tuple[Pair, ...] = (
    (
        "The network, and AF_UNIX, which is the notify socket: without it there is no READY=1, and the start fails.",
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
    ),
)
CALLS: tuple[Pair, ...] = (
    ("What a service usually calls...", "SystemCallFilter=@system-service"),
    (
        "...without what needs privileges, and without what takes resources from others.",
        "SystemCallFilter=~@privileged @resources",
    ),
    (
        "For Limits(nice=...), which makes workers yield; the other limits go by prlimit64, which @default allows.",
        "SystemCallFilter=setpriority",
    ),
    (
        "A refused call is an error that Python reports. The default kills the process without a word.",
        "SystemCallErrorNumber=EPERM",
    ),
    ("The machine's own calling convention only.", "SystemCallArchitectures=native"),
    (
        "Writable memory is never executable. A JIT (PyPy, numba, Node.js) cannot live with this.",
        "MemoryDenyWriteExecute=yes",
    ),
    ("No containers in here.", "RestrictNamespaces=yes"),
    ("No scheduling before others.", "RestrictRealtime=yes"),
    ("No emulation of another kernel.", "LockPersonality=yes"),
)
MACHINE: tuple[Pair, ...] = (
    ("The machine's name is not the service's to change,", "ProtectHostname=yes"),
    ("nor its clock,", "ProtectClock=yes"),
    ("nor /proc/sys and /sys,", "ProtectKernelTunables=yes"),
    ("nor its modules,", "ProtectKernelModules=yes"),
    ("nor its cgroups: capbg limits its workers by rlimits, which need none.", "ProtectControlGroups=yes"),
    ("The kernel's log is not the service's to read.", "ProtectKernelLogs=yes"),
)
USER_LIMITS: tuple[Pair, ...] = (
    ("No set-user-ID program, no file capability gives it more than the user has.", "NoNewPrivileges=yes"),
    ("No way to make a set-user-ID file.", "RestrictSUIDSGID=yes"),
)
