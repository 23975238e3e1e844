"""Every exception capbg raises: when it is raised, and who must act.

Three leaves by who must act: :class:`UsageError` is for the program's author, :class:`OperatorError` for whoever set
up the machine. An overrun deadline is an outcome, not an error; :class:`TaskExpired` only carries it through a task's
frames so that cleanup code runs.
"""


class CapbgError(Exception):
    """Base class of everything capbg raises, except :class:`TaskExpired`."""


class UsageError(CapbgError):
    """The program uses capbg in a way that cannot work: its author must act."""


class OperatorError(CapbgError):
    """The environment of the process is wrong: the operator must act."""


class InvalidArgumentError(UsageError, ValueError):
    """An argument of the right type has a value that cannot be used. The message names the parameter."""


class WrongTypeError(UsageError, TypeError):
    """An argument is of a wrong type. The message names the parameter."""


class UnknownTaskError(UsageError, LookupError):
    """No such task is known here, or the calling process has no say over it.

    ``task_id`` is the id that was given.
    """

    def __init__(self, message: str, *, task_id: object = None) -> None:
        super().__init__(message)
        self.task_id = task_id


class UnknownEventError(UsageError, ValueError):
    """A listener was added for an event that does not exist."""


class WrongPhaseError(UsageError, RuntimeError):
    """The app is not in a phase in which the call makes sense (not entered, entered already, terminated)."""


class WrongThreadError(UsageError, RuntimeError):
    """The call belongs to the main thread: signals and forks do."""


class WrongProcessError(UsageError, RuntimeError):
    """The call belongs to the app's own process, and this is a worker or another child of it."""


class UnpicklableTaskError(UsageError, TypeError):
    """A callback cannot be sent to a worker under ``start_method="spawn"`` or ``"forkserver"``."""


class InvalidEnvironmentError(OperatorError, ValueError):
    """An environment variable that capbg reads (``CAPBG_GRACE``) has a value that cannot be used."""


class TaskExpired(BaseException):
    """Raised in a task's callback at its soft expiry. A BaseException, so that ``except Exception`` lets it through.

    After it the worker has ``kill_after`` seconds to leave; then its process group gets SIGKILL.
    """
