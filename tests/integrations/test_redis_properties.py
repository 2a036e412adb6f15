"""Processes that share a limit stay within it, whatever is lost between them and Redis.

Time, losses and crashes are steps of Hypothesis; the script runs in process. `_messages.py` lists
when the limit can be exceeded: these steps leave that out.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from itwin_export_async import RateLimit
from itwin_export_async.redis._messages import Timing, parse_reply
from itwin_export_async.redis._quota import QuotaShare
from itwin_export_async.redis._store import KEYS, SCRIPT
from tests.support.lua_redis import LuaRedis

MINUTE = 60.0  # the service's; the limiter's is 0.1 s longer
LIMIT = 12
PROCESSES = 3
TIMING = Timing()
LONGEST_CALL = TIMING.call_lease - 3

indexes = st.integers(0, PROCESSES - 1)


class Process:
    """One process: its share, and its calls as the service sees them."""

    def __init__(self, name: str) -> None:
        self.share = QuotaShare(name, RateLimit(per_minute=LIMIT), PROCESSES, TIMING)
        self.is_cut = False
        self.waiting = 0
        self.in_flight: list[float] = []
        self.finished: list[float] = []

    def admit(self, now: float) -> None:
        while self.waiting and self.share.next_free_at(now) == now:
            self.share.start_call()
            self.waiting -= 1
            self.in_flight.append(now)

    def finish(self, now: float, *, counted: bool = True) -> None:
        """Finish the oldest call."""
        if self.in_flight:
            self.in_flight.pop(0)
            self.share.finish_call(now, counted=counted)
            if counted:
                self.finished.append(now)

    def count(self, now: float) -> int:
        """The calls that the service may count in the minute until now."""
        return len(self.in_flight) + sum(at > now - MINUTE for at in self.finished)


class SharedRateLimit(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.redis = LuaRedis(SCRIPT, KEYS, lambda: self.now)
        self.names = iter(range(10**6))
        self.gone: list[Process] = []
        self.processes = [self.new_process() for _ in range(PROCESSES)]

    def new_process(self) -> Process:
        process = Process(f"p{next(self.names)}")
        self.exchange(process)
        return process

    def exchange(self, process: Process, *, lost: str = "", is_last: bool = False) -> None:
        message = process.share.build_message(self.now, wanted=process.waiting, is_last=is_last)
        self.now += 0.001
        reply = "" if process.is_cut or lost == "message" else self.redis.run(message)
        self.now += 0.001
        if not reply or lost == "reply":
            process.share.on_timeout()
        elif not is_last:
            process.share.on_reply(parse_reply(reply), self.now)
        process.admit(self.now)
        process.share.release_unused()

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            for process in self.processes:
                while process.in_flight and process.in_flight[0] < self.now - LONGEST_CALL:
                    process.finish(self.now)
                self.exchange(process)
            self.now += TIMING.heartbeat if seconds < 9 else 3.5  # that is quicker

    @rule(index=indexes, count=st.integers(1, LIMIT))
    def want_calls(self, index: int, count: int) -> None:
        self.processes[index].waiting += count
        self.processes[index].admit(self.now)

    @rule(index=indexes, count=st.integers(1, 3), counted=st.booleans())
    def finish_calls(self, index: int, count: int, counted: bool) -> None:
        for _ in range(count):
            self.processes[index].finish(self.now, counted=counted)

    @rule(index=indexes, lost=st.sampled_from(["", "message", "reply"]))
    def heartbeat(self, index: int, lost: str) -> None:
        self.exchange(self.processes[index], lost=lost)

    @rule(seconds=st.sampled_from([0.5, 2.0, 5.0, 30.0, 65.0, 100.0]))
    def wait(self, seconds: float) -> None:
        self.pass_time(seconds)

    @rule(index=indexes, is_cut=st.booleans())
    def cut_or_connect(self, index: int, is_cut: bool) -> None:
        self.processes[index].is_cut = is_cut

    @rule(is_cut=st.booleans())
    def cut_or_connect_all(self, is_cut: bool) -> None:
        for process in self.processes:
            process.is_cut = is_cut

    @rule(seconds=st.sampled_from([0.0, 5.0, 100.0]))
    def restart_redis(self, seconds: float) -> None:
        """Redis loses its data while it is gone; then all processes report again."""
        unknown = sum(process.count(self.now) for process in self.gone)
        if not unknown and not any(process.is_cut for process in self.processes):
            self.cut_or_connect_all(True)
            self.pass_time(seconds)
            self.redis.flush()
            self.cut_or_connect_all(False)
            for process in self.processes * 2:
                self.exchange(process)

    @rule(index=indexes, closes=st.booleans())
    def replace_process(self, index: int, closes: bool) -> None:
        old = self.processes[index]
        if old.is_cut or old.share.is_offline:
            return
        while old.in_flight:
            old.finish(self.now)
        if closes:
            self.exchange(old, is_last=True)
        self.gone.append(self.processes.pop(index))
        if not closes:
            self.pass_time(TIMING.peer_timeout)  # before that it counts as one of `PROCESSES`
        self.processes.append(self.new_process())

    @invariant()
    def stays_within_the_limit(self) -> None:
        assert sum(p.count(self.now) for p in self.processes + self.gone) <= LIMIT


SharedRateLimit.TestCase.settings = settings(stateful_step_count=20)
TestSharedLimit = SharedRateLimit.TestCase
