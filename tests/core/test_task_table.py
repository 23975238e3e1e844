"""A run's table, walked whole, and what its one instant means in each state."""

import copy
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capbg._core.task import GIVE_UP_NS, TABLE, Action, IllegalInputError, Input, Run, State
from capbg._core.words import NS, Outcome, TaskState

EVERY_PAIR = [(state, what) for state in State for what in Input]

PATHS: dict[State, tuple[Input, ...]] = {
    State.QUEUED: (),
    State.RUNNING: (Input.STARTED,),
    State.EXPIRING: (Input.STARTED, Input.CANCEL),
    State.ACKNOWLEDGED: (Input.STARTED, Input.FINISH),
    State.LEAVING: (Input.STARTED, Input.RETURNED),
    State.DYING: (Input.STARTED, Input.GARBAGE),
    State.SETTLED: (Input.REFUSED,),
}
"""The shortest way into each state."""

BEGAN = 1_000 * NS
GRACE = 30 * NS
KILL_AFTER = 2 * NS
END = BEGAN + GRACE


def make_run(*, limit_ns: int | None = None, into: State = State.QUEUED, now: int = BEGAN) -> Run:
    run = Run(
        id="upload-1",
        name="upload",
        queued_ns=BEGAN,
        last_start_ns=END,
        limit_ns=limit_ns,
        kill_after_ns=KILL_AFTER,
    )
    for what in PATHS[into]:
        run.step(what, now)
    assert into is run.state
    return run


@pytest.mark.parametrize(("state", "what"), EVERY_PAIR, ids=lambda each: each.name)
def test_every_input_in_every_state_is_in_the_table_or_raises_and_changes_nothing(state: State, what: Input) -> None:
    """The table decides, and nothing beside it; what it does not know raises and leaves the run as it was."""
    run = make_run(into=state)
    before = copy.deepcopy(run)
    transition = TABLE.get((state, what))
    if transition is None:
        with pytest.raises(IllegalInputError) as caught:
            run.step(what, BEGAN + NS, why="nobody will hear of it")
        assert f"task 'upload-1': {what.name} cannot happen while {state.name}" == str(caught.value)
        assert asdict(before) == asdict(run)
        return
    assert transition.actions == run.step(what, BEGAN + NS)
    assert transition.to is run.state
    if before.outcome is not None:
        assert (before.outcome, before.reason) == (run.outcome, run.reason)
    elif transition.outcome is not Outcome.EXPIRED:  # see the test of a cancelled one
        assert transition.outcome is run.outcome


def test_every_state_and_every_input_is_of_use() -> None:
    """Every state is reached from QUEUED, every input is legal somewhere, every action and outcome is asked for."""
    reached = {State.QUEUED}
    while more := {to.to for (state, _), to in TABLE.items() if state in reached} - reached:
        reached |= more
    assert set(State) == reached
    assert set(Input) == {what for _, what in TABLE}
    assert set(Action) == {action for to in TABLE.values() for action in to.actions}
    given_directly = {to.outcome for to in TABLE.values()} - {None}
    assert set(Outcome) == given_directly
    assert set(State) == set(PATHS)


def test_settled_is_final_and_every_other_state_leads_there() -> None:
    """No input is legal once a run is settled, and time alone ends every other state."""
    assert [] == [what for state, what in TABLE if state is State.SETTLED]
    for state in State:
        run = make_run(into=state)
        for _ in range(4):
            if run.state is not State.SETTLED:
                run.step(Input.DUE, run.due_ns)
        assert State.SETTLED is run.state
        assert run.outcome is not None


def test_the_outcome_is_decided_exactly_once_on_every_way_through_the_table() -> None:
    """A state is always entered with its outcome decided, or always without one: none is settled without."""
    undecided = {State.QUEUED, State.RUNNING, State.EXPIRING}
    for (state, what), to in TABLE.items():
        decides = to.outcome is not None
        assert (state in undecided and to.to not in undecided) == decides, f"{what.name} in {state.name}"


@settings(deadline=None, database=None)
@given(
    inputs=st.lists(st.tuples(st.sampled_from(Input), st.sampled_from([0, 1, NS, 3 * NS, 40 * NS])), max_size=30),
    limit_ns=st.sampled_from([None, NS, 60 * NS]),
)
def test_no_sequence_of_inputs_changes_an_outcome_or_puts_off_the_hard_deadline(
    inputs: list[tuple[Input, int]], limit_ns: int | None
) -> None:
    """Once decided an outcome stays, once set a hard deadline only comes nearer, and a worker's end is due by then."""
    run, now = make_run(limit_ns=limit_ns), BEGAN
    for what, later_ns in inputs:
        now += later_ns
        outcome, reason, hard_ns = run.outcome, run.reason, run.hard_ns
        try:
            run.step(what, now, why=what.name)
        except IllegalInputError:
            continue
        if outcome is not None:
            assert (outcome, reason) == (run.outcome, run.reason)
        if run.state in {State.RUNNING, State.EXPIRING, State.ACKNOWLEDGED, State.LEAVING}:
            assert run.hard_ns is not None
            assert hard_ns is None or run.hard_ns <= hard_ns
            assert run.due_ns <= run.hard_ns <= END + KILL_AFTER
        assert run.alive == (run.state not in {State.QUEUED, State.SETTLED})
        assert (run.state is State.SETTLED) == (run.public_state is TaskState.SETTLED)


# ------------------------------------------------------------------------------------------------ the one instant


def test_queued_is_due_at_the_end_of_the_grace_period_and_is_then_refused() -> None:
    """Waiting for a worker is over when the grace period is, and the reason says what it waited for."""
    run = make_run(limit_ns=NS)
    run.waited_for = "EAGAIN"
    assert END == run.due_ns == run.soft_ns
    run.step(Input.DUE, END)
    assert (Outcome.REFUSED, "no worker could be started in time: EAGAIN") == (run.outcome, run.reason)


@pytest.mark.parametrize(
    ("limit_ns", "started_ns", "soft_ns"),
    [
        (None, BEGAN, END),
        (None, BEGAN + 5 * NS, END),
        (10 * NS, BEGAN + 5 * NS, BEGAN + 15 * NS),
        (10 * NS, END - NS, END),
        (99 * NS, BEGAN, END),
    ],
)
def test_running_is_due_at_its_deadline_counted_from_its_start(
    limit_ns: int | None, started_ns: int, soft_ns: int
) -> None:
    """The soft expiry is the task's deadline after its worker's start, never later than the grace period's end."""
    run = make_run(limit_ns=limit_ns)
    assert (soft_ns, soft_ns + KILL_AFTER) == run.deadlines_if_started(started_ns)
    run.step(Input.STARTED, started_ns)
    assert (soft_ns, soft_ns, soft_ns + KILL_AFTER) == (run.soft_ns, run.due_ns, run.hard_ns)


@pytest.mark.parametrize("late_ns", [0, NS, 60 * NS])
def test_kill_after_counts_from_the_deadline_and_not_from_when_it_was_noticed(late_ns: int) -> None:
    """A supervisor that looks at the clock late does not give the task more time than the kernel does."""
    run = make_run(limit_ns=10 * NS, into=State.RUNNING)
    soft_ns = BEGAN + 10 * NS
    assert (Action.EXPIRE,) == run.step(Input.DUE, soft_ns + late_ns, why="its deadline was over")
    assert (soft_ns + KILL_AFTER, soft_ns + KILL_AFTER) == (run.due_ns, run.hard_ns)


@pytest.mark.parametrize("what", [Input.CANCEL, Input.HURRY, Input.EXPIRY_BEGUN])
def test_an_expiry_that_comes_early_counts_kill_after_from_then(what: Input) -> None:
    """Cancelled, hurried, or at its CPU limit: the hard expiry is ``kill_after`` later, and never later than it was."""
    early = make_run(limit_ns=10 * NS, into=State.RUNNING)
    early.step(what, BEGAN + 4 * NS)
    assert BEGAN + 4 * NS + KILL_AFTER == early.due_ns == early.hard_ns
    late = make_run(limit_ns=10 * NS, into=State.RUNNING)
    late.step(what, BEGAN + 11 * NS)
    assert BEGAN + 10 * NS + KILL_AFTER == late.due_ns == late.hard_ns


@pytest.mark.parametrize("into", [State.EXPIRING, State.ACKNOWLEDGED, State.LEAVING])
def test_a_worker_that_is_to_leave_is_killed_at_its_instant(into: State) -> None:
    """Soft expiry, finish or last word: from there on the worker has ``kill_after`` to leave, then it is killed."""
    run = make_run(into=into, now=BEGAN + NS)
    assert BEGAN + NS + KILL_AFTER == run.due_ns
    assert (Action.KILL,) == run.step(Input.DUE, run.due_ns)
    assert State.DYING is run.state


@pytest.mark.parametrize("word", [Input.FINISH, Input.RETURNED, Input.RAISED, Input.UNARMED])
def test_a_last_word_does_not_put_off_the_hard_deadline(word: Input) -> None:
    """Whoever speaks up at the last moment is killed at the hard deadline all the same."""
    run = make_run(limit_ns=10 * NS, into=State.RUNNING)
    hard_ns = BEGAN + 12 * NS
    run.step(Input.DUE, BEGAN + 10 * NS)
    run.step(word, BEGAN + 11 * NS)
    assert hard_ns == run.due_ns


def test_a_second_finish_is_acknowledged_and_wins_no_time() -> None:
    """The worker that waits for an answer gets one, and its end is where it was."""
    run = make_run(into=State.ACKNOWLEDGED)
    due_ns = run.due_ns
    assert (Action.ACKNOWLEDGE,) == run.step(Input.FINISH, BEGAN + NS)
    assert due_ns == run.due_ns


def test_a_worker_that_survives_sigkill_is_given_up() -> None:
    """Patience with a process that not even SIGKILL ends is limited, and counts from the kill."""
    run = make_run(into=State.DYING, now=BEGAN + NS)
    assert BEGAN + NS + GIVE_UP_NS == run.due_ns
    run.step(Input.CANCEL, BEGAN + 2 * NS)
    assert BEGAN + NS + GIVE_UP_NS == run.due_ns
    assert (Action.ABANDON,) == run.step(Input.DUE, run.due_ns)
    assert (State.SETTLED, Outcome.CRASHED) == (run.state, run.outcome)


# -------------------------------------------------------------------------------------------------------- results


@pytest.mark.parametrize("how", [Input.EXIT, Input.RETURNED, Input.RAISED])
def test_a_cancelled_run_is_cancelled_however_it_leaves(how: Input) -> None:
    """What the program cancelled is CANCELLED, where the same way of leaving is EXPIRED after a deadline."""
    for what, outcome in ((Input.CANCEL, Outcome.CANCELLED), (Input.HURRY, Outcome.EXPIRED)):
        run = make_run(into=State.RUNNING)
        run.step(what, BEGAN + NS, why="told to")
        run.step(how, BEGAN + NS, why="it left")
        assert (outcome, "told to; it left") == (run.outcome, run.reason)


def test_a_finish_after_the_soft_expiry_counts() -> None:
    """The work was done, if only just: FINISHED, even for a task that was cancelled."""
    run = make_run(into=State.EXPIRING)
    assert (Action.ACKNOWLEDGE,) == run.step(Input.FINISH, BEGAN + NS)
    assert Outcome.FINISHED is run.outcome


def test_a_result_counts_from_the_signal_and_from_the_start() -> None:
    """``started`` counts from the signal, ``duration`` from the start; and only a settled run has a result."""
    run = make_run()
    run.step(Input.STARTED, BEGAN + 3 * NS)
    with pytest.raises(IllegalInputError):
        run.result(BEGAN)
    run.step(Input.EXIT, BEGAN + 5 * NS, why="gone")
    result = run.result(BEGAN)
    assert (3.0, 2.0, Outcome.CRASHED, "gone") == (result.started, result.duration, result.outcome, result.reason)
    assert 0.0 == run.result(BEGAN + 4 * NS).started  # it began before the signal this grace period counts from
    refused = make_run(into=State.SETTLED).result(BEGAN)
    assert (None, None, None) == (refused.started, refused.duration, refused.pid)
