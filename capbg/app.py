"""``App``: the Python face. Argument checks, wiring, listeners, and who drives.

Who drives
==========

*Plain*: a program with a main loop of its own knows nothing of us. A signal's Python handler then takes the turns right
where the main thread stands, and returns once the app is active again, or leaves by SystemExit. While the main thread
is inside one of our own calls, or in :meth:`App.critical`, the handler only takes note, and the end of that call or
block makes up for it.

*Driven*: the first call of :meth:`App.fileno` or :meth:`App.pump` says that an event loop watches the descriptor and
calls ``pump``; from then on handlers only take note. Adapters say so before the signals are installed
(:meth:`App.enter_driven`).

The first instruction of ``__exit__`` is a place where a handler may run, too: were it to raise there, the app would
stay entered for ever. So a handler that finds ``__enter__`` or ``__exit__`` on the stack only takes note.
"""

import inspect
import itertools
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from capbg._core import budget
from capbg._core.budget import NO_LIMITS, Limits
from capbg._core.events import CancelRequested, FinishRequested, Registration
from capbg._core.grace import Grace, make_grace
from capbg._core.words import NS, AppState, GraceReport, Phase, TaskInfo, TaskResult
from capbg.errors import (
    InvalidArgumentError,
    UnknownEventError,
    UnknownTaskError,
    UnpicklableTaskError,
    UsageError,
    WrongPhaseError,
    WrongProcessError,
    WrongThreadError,
    WrongTypeError,
)
from capbg.task import Order, Task, current_task, finish_current, log

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from capbg.supervisor import Supervisor

_STOPS = (signal.SIGTERM, signal.SIGINT)

START_METHODS = ("fork", "forkserver", "spawn")

EVENTS = ("appStateChange", "pause", "resume", "taskSettled", "graceEnded")
"""What listeners can be added for; the snake_case spellings work as well."""

_EVENT_ARGUMENTS = {
    "appStateChange": "AppState",
    "pause": None,
    "resume": None,
    "taskSettled": "TaskResult",
    "graceEnded": "GraceReport",
}

_EVENT_NAMES = {
    **{event: event for event in EVENTS},
    "app_state_change": "appStateChange",
    "task_settled": "taskSettled",
    "grace_ended": "graceEnded",
}

_PUMP_WORKS_NS = NS // 1000
"""How long one :meth:`App.pump` takes in what workers say, apart from listeners and the fork: a window stays smooth."""

_Callback = TypeVar("_Callback", bound=Callable[..., object])

_entered: "App | None" = None
"""The app that is entered in this process: signals belong to one at a time."""


class ListenerHandle:
    """What ``add_listener`` returns; :meth:`remove` takes the listener off again."""

    def __init__(self, listeners: "list[ListenerHandle]", callback: Callable[..., object]) -> None:
        self._listeners = listeners
        self.callback = callback

    def remove(self) -> None:
        """Remove the listener. Twice does no harm."""
        if self in self._listeners:
            self._listeners.remove(self)


class _Listeners:
    """The app's listeners, by event. One that raises is reported and does not stop the others."""

    def __init__(self, ended: Callable[[GraceReport], None]) -> None:
        self._ended = ended
        self._by_event: dict[str, list[ListenerHandle]] = {event: [] for event in EVENTS}
        self._was_active = True
        self.report: Callable[[str], None] = log.error

    def add(self, event: str, callback: Callable[..., object]) -> ListenerHandle:
        known = _EVENT_NAMES.get(event) if isinstance(event, str) else None
        if known is None:
            raise UnknownEventError(f"there is no event {event!r}: listeners can be added for {', '.join(EVENTS)}")
        if not callable(callback):
            raise WrongTypeError(f"the listener for {known} must be callable, not {type(callback).__name__}")
        if inspect.iscoroutinefunction(callback):
            raise WrongTypeError(
                f"the listener {_name_of(callback)!r} for {known} is a coroutine function: listeners are called at "
                "once and nothing would await it. Make it a plain function; the tasks it registers may be coroutines"
            )
        _check_listener(callback, known)
        handle = ListenerHandle(self._by_event[known], callback)
        self._by_event[known].append(handle)
        return handle

    def remove_all(self) -> None:
        for handles in self._by_event.values():
            handles.clear()

    def state_changed(self, state: AppState) -> list[str]:
        changed = state.is_active is not self._was_active
        self._was_active = state.is_active
        errors = self._tell("appStateChange", state)
        if changed:
            errors += self._tell("resume" if state.is_active else "pause")
        return errors

    def task_settled(self, result: TaskResult) -> list[str]:
        return self._tell("taskSettled", result)

    def grace_ended(self, report: GraceReport) -> list[str]:
        self._ended(report)
        return self._tell("graceEnded", report)

    def _tell(self, event: str, *arguments: object) -> list[str]:
        errors = []
        for handle in list(self._by_event[event]):
            try:
                handle.callback(*arguments)
            except BaseException as error:  # noqa: BLE001 - reported; the grace period must go on whatever it is
                import traceback

                text = f"the listener {_name_of(handle.callback)!r} of {event} raised {type(error).__name__}: {error}"
                errors.append(text)
                self.report(f"{text}\n{''.join(traceback.format_exception(error))}")
        return errors


class App:
    """A program that gets a moment to finish its work when it is told to stop or to suspend.

    ::

        app = capbg.App("kiosk", grace=180.0)

        @app.background_task(deadline=20.0)
        def upload(task: capbg.Task) -> None: ...

        with app:
            main_loop()

    ``name``
        in ``ps`` and the log; None: the program's name.
    ``grace``
        seconds from the signal to the soft expiry of whatever still runs; more than 0, at most a year. ``CAPBG_GRACE``
        in the environment overrides it.
    ``kill_after``
        seconds from a task's soft expiry to SIGKILL, and from its last word until it must be gone; 0 or more.
    ``max_workers``
        workers at a time; None: as many as there are tasks, and as the machine allows.
    ``start_method``
        ``"fork"``: a worker sees the program's memory as it was at that moment. ``"forkserver"`` and ``"spawn"``: for
        programs that must not fork (threads, GPU, GUI toolkits); callbacks travel by dill.
    ``proctitle``
        whether to show the state as the process title.

    Raises :class:`~capbg.WrongTypeError` or :class:`~capbg.InvalidArgumentError`, naming the parameter, and
    :class:`~capbg.InvalidEnvironmentError` for a ``CAPBG_GRACE`` that is no number of seconds.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        grace: float = 180.0,
        kill_after: float = 2.0,
        max_workers: int | None = None,
        start_method: str = "fork",
        proctitle: bool = True,
    ) -> None:
        self.name = budget.name(_program_name() if name is None else name, "App(name)")
        self.grace = _grace_from(os.environ, budget.seconds(grace, "App(grace)"))
        self.kill_after = budget.seconds(kill_after, "App(kill_after)", zero=True)
        if max_workers is not None:
            budget.whole(max_workers, "App(max_workers)", least=1, most=1 << 20)
        self.max_workers = max_workers
        if start_method not in START_METHODS:
            raise InvalidArgumentError(
                f"App(start_method) must be one of {', '.join(START_METHODS)}, not {start_method!r}"
            )
        self.start_method = start_method
        if not isinstance(proctitle, bool):
            raise WrongTypeError(f"App(proctitle) must be True or False, not {proctitle!r}")
        self._proctitle = proctitle
        self._ids = itertools.count(1)
        self._listeners = _Listeners(self._forget_orders)
        self._orders: dict[str, Order] = {}
        self._waiting: dict[str, Registration] = {}
        """What was registered before the app was entered."""
        self._core: Grace | None = None
        self._supervisor: Supervisor | None = None
        self._pid = os.getpid()
        self._depth = 0
        """How many of our own calls the main thread is inside of."""
        self._missed = False
        """Whether a handler only took note."""
        self._driven = False
        self._driven_next = False
        """Whether a loop will drive it from the moment it is entered."""
        self._left = False
        """Whether SystemExit has been raised: from then on ``finally`` blocks run, and no signal may cut them short."""
        self._leaving: SystemExit | None = None
        """What the program was last told to leave by."""
        self._driving: AbstractAsyncContextManager[App] | None = None
        """What drives it from an async loop, inside ``async with``."""
        self._unraisable: tuple[Callable[..., object], Callable[..., object]] | None = None
        """``sys.unraisablehook`` as it was before SystemExit was raised, and as it is since."""

    def __repr__(self) -> str:
        phase = "not entered" if self._core is None else self._core.phase.value
        return f"<capbg.App {self.name!r} {phase}>"

    def __reduce__(self) -> tuple[Callable[[str], "App"], tuple[str]]:
        # A callback that refers to its app goes to a spawned worker, where finish() is all that is left of it.
        return _app_in_worker, (self.name,)

    # ---------------------------------------------------------------------------------------------- registering

    def before_exit(
        self,
        callback: Callable[..., object],
        *,
        name: str | None = None,
        deadline: float | None = None,
        limits: Limits | None = None,
        on_expire: Callable[[Task], object] | None = None,
    ) -> str:
        """Register a task for one backgrounding, the next or the current one, and return its id.

        ``callback`` takes no argument or the :class:`Task`, may be a coroutine function, and says when it is done by
        ``finish``; without that its outcome is UNFINISHED. It never runs before this has returned. ``deadline``:
        seconds from the start of its worker to the soft expiry, never beyond the grace period; None: the whole grace
        period. ``on_expire(task)`` runs in the worker at the soft expiry, before :class:`TaskExpired` is raised in the
        callback. From any thread. Raises for whatever cannot work, here and not at the signal.
        """
        registration = self._make(
            callback, name=name, deadline=deadline, limits=limits, on_expire=on_expire, once=True, where="before_exit"
        )
        return self._register(registration)

    def background_task(
        self,
        without_parentheses: object = None,
        /,
        *,
        name: str | None = None,
        deadline: float | None = None,
        limits: Limits | None = None,
        on_expire: Callable[[Task], object] | None = None,
    ) -> Callable[[_Callback], _Callback]:
        """Register a task for every backgrounding; a decorator, with the options of :meth:`before_exit`.

        Returning normally counts as finish. The decorated function stays as it is; ``tasks()`` tells its id.
        Always with parentheses: ``@app.background_task()``.
        """

        if without_parentheses is not None:
            raise WrongTypeError("background_task takes its options by name: write @app.background_task(), with ()")

        def register(function: _Callback) -> _Callback:
            registration = self._make(
                function,
                name=name,
                deadline=deadline,
                limits=limits,
                on_expire=on_expire,
                once=False,
                where="background_task",
            )
            self._register(registration)
            return function

        return register

    def _make(
        self,
        callback: Callable[..., object],
        *,
        name: str | None,
        deadline: float | None,
        limits: Limits | None,
        on_expire: Callable[[Task], object] | None,
        once: bool,
        where: str,
    ) -> Registration:
        self._check_process(where)
        if not callable(callback):
            raise WrongTypeError(f"{where}(callback) must be callable, not {type(callback).__name__} ({callback!r})")
        task_name = budget.name(_name_of(callback) if name is None else name, f"{where}(name)")
        takes_task = _takes_task(callback, where)
        limit_ns = None if deadline is None else budget.nanoseconds(budget.seconds(deadline, f"{where}(deadline)"))
        if limits is None:
            limits = NO_LIMITS
        elif not isinstance(limits, Limits):
            raise WrongTypeError(f"{where}(limits) must be a capbg.Limits, not {type(limits).__name__}")
        if limits.nice is not None:
            from capbg._os.limits import niceness_is_allowed

            if not niceness_is_allowed(limits.nice):
                raise InvalidArgumentError(
                    f"{where}(limits): nice={limits.nice} needs CAP_SYS_NICE or RLIMIT_NICE, which this process lacks"
                )
        if on_expire is not None:
            _check_on_expire(on_expire, where)
        is_coroutine = inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(
            getattr(callback, "__call__", None)  # noqa: B004 - an object whose __call__ is a coroutine function
        )
        if is_coroutine:
            import asyncio  # noqa: F401 - now, so that nothing has to be imported in the grace period
        self._check_pickling(callback, on_expire, task_name, where)
        kill_after_ns = budget.nanoseconds(self.kill_after)
        task_id = f"{task_name}-{next(self._ids)}"
        self._orders[task_id] = Order(
            task_id=task_id,
            task_name=task_name,
            app_name=self.name,
            callback=callback,
            takes_task=takes_task,
            is_coroutine=is_coroutine,
            returning_finishes=not once,
            on_expire=on_expire,
            limits=limits,
            kill_after_ns=kill_after_ns,
            proctitle=self._proctitle,
        )
        cpu = None
        if limits.cpu is not None:
            _, hard_s = budget.cpu_limits(limits, until_hard_ns=0, kill_after_ns=kill_after_ns, usable_cpus=1)
            cpu = hard_s * NS
        return Registration(task_id, task_name, limit_ns, once, cpu)

    def _check_pickling(self, callback: object, on_expire: object, task_name: str, where: str) -> None:
        if self.start_method == "fork":
            return
        from capbg._os.workers import pickling_problem

        problem = pickling_problem(callback, on_expire)
        if problem is not None:
            raise UnpicklableTaskError(
                f'{where}: task {task_name!r} cannot be sent to a worker under start_method="{self.start_method}": '
                f"{problem}. Let the callback refer to data (paths, ids, text), not to open files, locks or sockets"
            )

    def _register(self, registration: Registration) -> str:
        with self._call():
            supervisor = self._supervisor
            try:
                if supervisor is not None:
                    supervisor.submit(registration)
                elif self._core is not None and self._core.phase is Phase.TERMINATED:
                    self._core.step(registration, 0)
                else:
                    self._waiting[registration.id] = registration
            except UsageError:
                del self._orders[registration.id]
                raise
        return registration.id

    # -------------------------------------------------------------------------------------------- asking, ending

    def finish(self, task_id: str) -> None:
        """Say that a task is done; in its worker the same as the task's own ``finish()``.

        In the app's own process it settles a task that runs. Raises :class:`~capbg.UnknownTaskError` for an id that is
        not known here, and in every process that is neither the task's worker nor its parent.
        """
        if current_task() is not None:
            finish_current(task_id)
            return
        if os.getpid() != self._pid:
            raise UnknownTaskError(
                f"task {task_id!r} cannot be finished from this process: it is neither the task's worker nor its app",
                task_id=task_id,
            )
        self._known_id(task_id)
        with self._call():
            if self._supervisor is not None:
                self._supervisor.submit(FinishRequested(task_id))
            elif task_id in self._waiting:
                raise WrongPhaseError(f"task {task_id!r} has not started: cancel() unregisters it")
            elif self._core is not None:
                self._core.step(FinishRequested(task_id), 0)

    def cancel(self, task_id: str) -> None:
        """Unregister a task, or stop its worker: soft expiry now, SIGKILL ``kill_after`` seconds later.

        A task that is settled stays as it is. From any thread. Raises :class:`~capbg.UnknownTaskError`.
        """
        self._check_process("cancel")
        self._known_id(task_id)
        with self._call():
            if self._supervisor is not None:
                self._supervisor.submit(CancelRequested(task_id))
            else:
                self._waiting.pop(task_id, None)
            if not any(row.id == task_id for row in self.tasks()):
                self._orders.pop(task_id, None)

    def _known_id(self, task_id: object) -> None:
        if not isinstance(task_id, str) or not any(row.id == task_id for row in self.tasks()):
            raise UnknownTaskError(
                f"no task has the id {task_id!r}: ids come from before_exit(), and tasks() lists them", task_id=task_id
            )

    def tasks(self) -> tuple[TaskInfo, ...]:
        """What is registered, running, and settled since the last backgrounding, as values. From any thread."""
        with self._call():
            core, supervisor = self._core, self._supervisor
            rows: tuple[TaskInfo, ...] = ()
            if supervisor is not None:
                rows = supervisor.read(supervisor.core.tasks)
            elif core is not None:
                rows = core.tasks()
            if supervisor is None:
                rows += Grace.listed(self._waiting.values())
            return rows

    def get_state(self) -> AppState:
        """The phase, and why. From any thread."""
        core = self._core
        return _NOT_ENTERED if core is None else core.state

    @property
    def last_report(self) -> GraceReport | None:
        """What came of the last grace period; None before the first has ended."""
        return None if self._core is None else self._core.last_report

    def _forget_orders(self, report: GraceReport) -> None:
        """What ran once does not run again."""
        for result in report.results:
            order = self._orders.get(result.id)
            if order is not None and not order.returning_finishes:
                del self._orders[result.id]

    # ------------------------------------------------------------------------------------------------ listeners

    def add_listener(self, event: str, callback: Callable[..., object]) -> ListenerHandle:
        """Call ``callback`` at an event; the handle's ``remove()`` ends that.

        ``appStateChange`` (an :class:`AppState`), ``pause`` and ``resume`` (no argument), ``taskSettled`` (a
        :class:`TaskResult`), ``graceEnded`` (a :class:`GraceReport`). Listeners are called in the main thread, in the
        order in which they were added; a plain program's are called from within a signal handler. From any thread.
        """
        self._check_process("add_listener")
        return self._listeners.add(event, callback)

    def remove_all_listeners(self) -> None:
        """Remove every listener of every event."""
        self._listeners.remove_all()

    # ------------------------------------------------------------------------------------------- the active phase

    def critical(self) -> "_Critical":
        """A block in which backgrounding waits: no worker is forked from half-changed data. May be nested.

        From any thread. The grace period counts from the signal all the same, and systemd hears of it at once.
        """
        self._check_process("critical")
        return _Critical(self)

    def heartbeat(self) -> None:
        """The main loop's proof of life for systemd's watchdog. Call it in every round: most calls send nothing."""
        self._main_thread_only("heartbeat")
        supervisor = self._need_entered("heartbeat")
        with self._call():
            supervisor.ping()
        supervisor.write_records()

    def fileno(self) -> int:
        """One descriptor that is readable whenever :meth:`pump` is to be called. The loop that watches it drives.

        Inside ``with app:``. Under asyncio, uvloop and trio ``async with app:`` does all of it; ``capbg.loops`` has
        adapters for other loops.
        """
        self._main_thread_only("fileno")
        supervisor = self._need_entered("fileno")
        self._drive_from_outside(supervisor)
        return supervisor.fileno()

    def pump(self) -> None:
        """Take one turn: hear signals, call listeners, start a worker, take in what workers say. Never blocks.

        Apart from a stop by SIGSTOP at the end of a suspending grace period, which is its purpose. Leaves by
        SystemExit at the end of a terminating one. At most one worker is started in a turn; the descriptor stays
        readable while there are more.
        """
        self._main_thread_only("pump")
        supervisor = self._need_entered("pump")
        self._drive_from_outside(supervisor)
        supervisor.signals.take_over()
        supervisor.turn(block=False, starts=1, work_ns=_PUMP_WORKS_NS)
        if not supervisor.in_turn:
            supervisor.ping()
            supervisor.expect_ping()
            supervisor.write_records()
        self._leave_if_due(supervisor)

    def _leave_if_due(self, supervisor: "Supervisor") -> None:
        if supervisor.leaving is None or (self._left and self._on_the_way_out()):
            return
        self._restore_unraisablehook()
        self._left = True
        if self._driven:
            supervisor.signals.hand_back()  # the loop hears its own signals still, while `finally` blocks run in it
        leaving = self._leaving = SystemExit(supervisor.leaving)
        before = sys.unraisablehook

        def dropped(lost: "sys.UnraisableHookArgs") -> None:
            """Raise it again: Python drops what a handler raises while a ``__del__`` or a weakref's callback runs."""
            if lost.exc_value is not leaving:
                before(lost)
            elif self._supervisor is supervisor:
                self._restore_unraisablehook()
                self._left = False
                supervisor.turn_soon()

        self._unraisable = before, dropped
        sys.unraisablehook = dropped
        raise leaving

    def _on_the_way_out(self) -> bool:
        """Whether our SystemExit is unwinding the program: it is being handled here, or what is came of it.

        Else somebody has swallowed it (a bare ``except``, a C library that calls back), and it has to be raised again.
        """
        error = sys.exc_info()[1]
        while error is not None and error is not self._leaving:
            error = error.__context__
        return error is not None

    def _restore_unraisablehook(self) -> None:
        if self._unraisable is not None and sys.unraisablehook is self._unraisable[1]:
            sys.unraisablehook = self._unraisable[0]
        self._unraisable = None

    def _drive_from_outside(self, supervisor: "Supervisor") -> None:
        if not self._driven:
            self._driven = True
            supervisor.signals.take_over()
            supervisor.signals.wake()  # what came before is to be heard, too

    # --------------------------------------------------------------------------------------------- way in, way out

    def __enter__(self) -> "App":
        global _entered, _entered_by
        self._main_thread_only("entering an app")
        if current_task() is not None:
            raise WrongProcessError("an app cannot be entered in a worker: it belongs to the program that was started")
        if _entered is not None:
            which = "this app" if _entered is self else f"the app {_entered.name!r}"
            raise WrongPhaseError(f"{which} is entered already: signals belong to one app at a time, leave it first")
        if self._core is not None and self._core.phase is Phase.TERMINATED:
            raise WrongPhaseError(f"the app {self.name!r} has terminated and cannot be entered again")
        from capbg._os import fds, notify, signals, workers
        from capbg._os.title import Title
        from capbg.supervisor import Supervisor

        _register_fork_hook()
        mask = signals.block()
        try:
            core = make_grace(
                grace_s=self.grace,
                kill_after_s=self.kill_after,
                max_workers=self.max_workers,
                watchdog_ns=notify.watchdog_ns(os.environ),
                tell_tasks=notify.wants_tasks(os.environ),
            )
            for registration in self._waiting.values():
                core.step(registration, 0)
            fds.fill_standard()
            workers.prepare(self.start_method)
            title = Title(self.name, enabled=self._proctitle)
            title.take()
            supervisor = Supervisor(
                core,
                method=self.start_method,
                order_of=self._orders.__getitem__,
                listeners=self._listeners,
                title=title,
                handler=self._on_signal,
                environ=os.environ,
            )
            self._pid = os.getpid()
            self._listeners.report = lambda text: supervisor.record(40, text)
            self._depth, self._missed, self._driven, self._left = 0, False, self._driven_next, False
            self._core, self._supervisor, _entered = core, supervisor, self
            _entered_by = threading.get_ident()
            self._waiting = {}
            try:
                supervisor.signals.install()
                supervisor.begin()
            except BaseException:
                self._undo()
                raise
        finally:
            signals.restore_mask(mask)
        if self._missed:
            self._make_up()
        return self

    def enter_driven(self) -> int:
        """Enter the app, driven by a loop from the first moment on, and return :meth:`fileno`. For adapters.

        Between entering an app and asking it for its descriptor a signal would find a plain program, and run the whole
        grace period on the spot. To block the signals meanwhile is not enough: another thread would take them.
        """
        self._driven_next = True
        try:
            self.__enter__()
        finally:
            self._driven_next = False
        try:
            supervisor = self._need_entered("enter_driven")
            supervisor.signals.take_over()
            supervisor.signals.wake()  # what came before is to be heard, too
            return supervisor.fileno()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise

    def _make_up(self) -> None:
        """A signal came on the way in."""
        try:
            self._react()
        except BaseException:
            supervisor = self._supervisor
            self._undo()
            if supervisor is not None:
                supervisor.write_records()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        supervisor = self._supervisor
        if supervisor is None or os.getpid() != self._pid:
            return  # a forked child unwinds through the app's block: it has nothing to undo
        from capbg._os import signals

        mask = signals.block()
        try:
            while supervisor.leaving is None:
                signals.restore_mask(mask)
                supervisor.drain()
                signals.block()
                if not supervisor.signals.pending():
                    break
        finally:
            self._undo()
            signals.restore_mask(mask)
        supervisor.write_records()
        never = supervisor.core.registered_once
        if supervisor.leaving is None and never:
            log.warning("app %r was left with %d task(s) registered that never ran", self.name, never)
        if supervisor.leaving is None or (error is not None and error is self._leaving):
            return
        if error is None or (isinstance(error, SystemExit) and not error.code):
            raise SystemExit(supervisor.leaving)

    async def __aenter__(self) -> "App":
        """Enter the app, driven by the asyncio (uvloop) or trio loop that runs in the main thread.

        At the end of a terminating grace period the task that entered the block is cancelled, and the end of the block
        raises SystemExit with the exit status. Raises :class:`~capbg.WrongPhaseError` where no such loop runs.
        """
        driving = _async_driving()(self)
        await driving.__aenter__()
        self._driving = driving
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        driving, self._driving = self._driving, None
        if driving is None or os.getpid() != self._pid:
            return None  # a forked child unwinds through the app's block
        return await driving.__aexit__(kind, error, traceback)

    def _undo(self) -> None:
        """Put everything back. Our signals are blocked, or this is the way out after an error."""
        global _entered
        from capbg._os import signals

        supervisor = self._supervisor
        assert supervisor is not None
        mask = signals.block()
        try:
            supervisor.close()  # first: its timer calls for turns by a signal, which from here on nobody would handle
        finally:
            supervisor.signals.uninstall(leaving=supervisor.leaving is not None)
            self._restore_unraisablehook()
            self._supervisor = None
            _entered = None
            self._listeners.report = log.error
            if supervisor.leaving is None:
                self._waiting = supervisor.core.give_back()
            signals.restore_mask(mask)

    # -------------------------------------------------------------------------------------------------- signals

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        supervisor = self._supervisor
        if supervisor is None or os.getpid() != self._pid:
            return  # a child between its fork and our hook: blocked signals come behind it
        first = supervisor.signals.handled(signum)
        if self._driven:
            return
        if self._left:
            if signum in _STOPS and not supervisor.in_turn and not _at_the_door(frame):
                self._leave_if_due(supervisor)
            return
        if _is_inside(frame, _before_fork, _after_fork_in_parent):
            supervisor.turn_soon()  # Python drops what is raised in there, a SystemExit as well
            return
        if not first or self._depth or supervisor.in_turn or _at_the_door(frame):
            self._missed = True
            return
        if _is_in_coroutine():
            supervisor.record(
                logging.WARNING,
                "the event loop stands still until the grace period is over, for `with app:` does not know of it: use "
                "`async with app:`",
            )
        self._react()

    def _react(self) -> None:
        """Plain: take the turns that are due, right here."""
        supervisor = self._supervisor
        assert supervisor is not None
        while True:
            self._missed = False
            if supervisor.held_by_main:
                supervisor.turn(block=False)
            else:
                supervisor.drive()
            self._leave_if_due(supervisor)
            self._depth += 1  # it asks the core, under the lock that a turn would wait for
            try:
                supervisor.leave_to_program()
            finally:
                self._depth -= 1
            if not self._missed:
                return

    def _call(self) -> "_Call":
        return _Call(self)

    def _after_call(self) -> None:
        supervisor = self._supervisor
        if supervisor is None or os.getpid() != self._pid or supervisor.in_turn or self._driven or self._left:
            return
        if self._missed or supervisor.has_work or supervisor.signals.pending():
            self._react()

    def _call_for_a_turn(self) -> None:
        """Another thread has given the main thread something to do; a plain program is not waiting for that."""
        supervisor = self._supervisor
        if supervisor is not None and supervisor.has_work and not self._driven:
            from capbg._os.signals import TURN

            signal.pthread_kill(threading.main_thread().ident or 0, TURN)

    # --------------------------------------------------------------------------------------------------- checks

    def _main_thread_only(self, what: str) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise WrongThreadError(
                f"{what} belongs to the main thread (signals and forks do), and this is "
                f"{threading.current_thread().name!r}"
            )

    def _check_process(self, what: str) -> None:
        task = current_task()
        if task is not None:
            raise WrongProcessError(f"{what} belongs to the app's own process; this is the worker of task {task.id!r}")
        if self._supervisor is None and self._pid != os.getpid() and self._core is not None:
            raise WrongProcessError(f"{what} belongs to the app's own process {self._pid}; this is {os.getpid()}")

    def _need_entered(self, what: str) -> "Supervisor":
        self._check_process(what)
        if self._supervisor is None:
            raise WrongPhaseError(f"{what} needs an entered app: call it inside `with app:`")
        return self._supervisor


class _Call:
    """Marks that the main thread is inside one of our calls, where a signal handler must not take a turn."""

    __slots__ = ("_app", "_main")

    def __init__(self, app: App) -> None:
        self._app = app
        self._main = threading.get_ident() == threading.main_thread().ident

    def __enter__(self) -> None:
        if self._main:
            self._app._depth += 1

    def __exit__(self, *_exc: object) -> None:
        if self._main:
            self._app._depth -= 1
            if not self._app._depth:
                self._app._after_call()
        else:
            self._app._call_for_a_turn()


class _Critical:
    """See :meth:`App.critical`."""

    __slots__ = ("_app", "_main", "_supervisor")

    def __init__(self, app: App) -> None:
        self._app = app
        self._main = threading.get_ident() == threading.main_thread().ident

    def __enter__(self) -> None:
        with self._app._call():
            self._supervisor = self._app._supervisor  # None: not entered, nothing can be backgrounded
            if self._supervisor is not None:
                self._supervisor.hold()
                self._supervisor.held_by_main += self._main

    def __exit__(self, *_exc: object) -> None:
        with self._app._call():
            if self._supervisor is not None and self._supervisor is self._app._supervisor:
                self._supervisor.held_by_main -= self._main
                self._supervisor.release()


def _async_driving() -> "Callable[[App], AbstractAsyncContextManager[App]]":
    """The adapter to the loop that is running."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        try:
            from capbg.loops import trio as adapter
        except ImportError as error:
            raise WrongPhaseError(
                f"`async with app:` under trio goes through anyio, and {error}: install capbg[trio]"
            ) from error
        return adapter.driving
    if "asyncio" in sys.modules:
        import asyncio

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            from capbg.loops.asyncio import driving

            return driving
    raise WrongPhaseError(
        "`async with app:` needs a running asyncio (uvloop) or trio loop, and there is none: call it inside of "
        "asyncio.run() or trio.run(), or use `with app:` and have your loop watch app.fileno() and call app.pump()"
    )


_NOT_ENTERED = Grace(grace_ns=1, kill_after_ns=0, max_workers=None).state


def _is_in_coroutine() -> bool:
    asyncio = sys.modules.get("asyncio")
    try:
        return asyncio is not None and asyncio.get_running_loop() is not None
    except RuntimeError:
        return False


def _at_the_door(frame: FrameType | None) -> bool:
    return _is_inside(frame, App.__enter__, App.__exit__)


def _is_inside(frame: FrameType | None, *functions: Callable[..., object]) -> bool:
    codes = [function.__code__ for function in functions]
    while frame is not None:
        if frame.f_code in codes:
            return True
        frame = frame.f_back
    return False


_hooked = False
_masks: dict[int, Any] = {}
"""The signal masks to go back to, of threads that are forking just now."""


def _register_fork_hook() -> None:
    global _hooked
    if not _hooked:
        _hooked = True
        os.register_at_fork(
            before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
        )


def _before_fork() -> None:
    """Block our signals over every fork.

    A child has the app's handlers and its wake-up descriptor until the hook below has run in it: a SIGTERM for a child
    that has just been forked would be written into the app's own pipe, and stop the app.
    """
    if _entered is not None and not _is_forking_workers():
        from capbg._os import signals

        _masks[threading.get_ident()] = signals.block()


def _after_fork_in_parent() -> None:
    _unblock_after_fork()


def _after_fork_in_child() -> None:
    global _entered, _inherited
    if _is_forking_workers():
        # It closes what it inherited as a lot, by number. Nothing of the app's may be deallocated in it: that would
        # close the same numbers once more, and costs a copy of every page it is on.
        app, _entered = _entered, None
        assert app is not None
        _inherited, app._supervisor = app._supervisor, None
        return
    _forget_in_child()
    _unblock_after_fork()
    _masks.clear()


def _is_forking_workers() -> bool:
    """Whether this thread is; then our signals are blocked already."""
    supervisor = None if _entered is None else _entered._supervisor
    return supervisor is not None and supervisor.forking and threading.get_ident() == _entered_by


def _unblock_after_fork() -> None:
    mask = _masks.pop(threading.get_ident(), None)
    if mask is not None:
        from capbg._os import signals

        signals.restore_mask(mask)


_inherited: "Supervisor | None" = None
"""In a worker: the app's, kept from being deallocated."""
_entered_by = 0
"""The main thread."""


def _forget_in_child() -> None:
    """In every forked child, a worker or the program's own: it is not the app."""
    global _entered
    if _entered is not None and _entered._supervisor is not None:
        app, _entered = _entered, None
        assert app._supervisor is not None
        app._supervisor.forget_in_child()
        app._supervisor = None


def _app_in_worker(name: str) -> App:
    return App(name)


def _program_name() -> str:
    stem = os.path.splitext(os.path.basename(sys.argv[0] if sys.argv else ""))[0]
    return stem if stem.strip() and stem.isprintable() and stem != "-c" else "python"


def _name_of(callback: object) -> str:
    function = callback
    while isinstance(function, _partial()):
        function = function.func
    text = getattr(function, "__name__", None) or type(function).__name__
    return "lambda" if text == "<lambda>" else str(text)


def _partial() -> Any:
    import functools

    return functools.partial


def _grace_from(environ: Mapping[str, str], grace: float) -> float:
    text = environ.get("CAPBG_GRACE")
    return grace if text is None else budget.seconds_from_environment(text, "CAPBG_GRACE")


def _takes_task(callback: Callable[..., object], where: str) -> bool:
    try:
        signature = inspect.signature(callback)
    except (TypeError, ValueError):
        return False  # a builtin without a signature: it is called plainly
    for arguments in ((), (None,)):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return bool(arguments)
    raise WrongTypeError(
        f"{where}(callback): {_name_of(callback)}{signature} cannot be called: a task's callback takes no argument, "
        "or one, the Task. Bind the others with a lambda or functools.partial"
    )


def _check_listener(callback: Callable[..., object], event: str) -> None:
    """Say it now: at the signal it would be too late."""
    argument = _EVENT_ARGUMENTS[event]
    try:
        inspect.signature(callback).bind(*[argument] if argument else [])
    except ValueError:
        return  # a builtin without a signature
    except TypeError as error:
        takes = f"one argument, the {argument}" if argument else "no argument"
        raise WrongTypeError(f"the listener {_name_of(callback)!r} for {event} must take {takes}") from error


def _check_on_expire(on_expire: object, where: str) -> None:
    if not callable(on_expire):
        raise WrongTypeError(f"{where}(on_expire) must be callable, not {type(on_expire).__name__}")
    if inspect.iscoroutinefunction(on_expire):
        raise WrongTypeError(f"{where}(on_expire) must be a plain function: it runs at once, nothing would await it")
    try:
        inspect.signature(on_expire).bind(None)
    except ValueError:
        return  # a builtin without a signature
    except TypeError as error:
        raise WrongTypeError(f"{where}(on_expire): {_name_of(on_expire)} must take one argument, the Task") from error
