"""One round: a run that is disturbed, again and again, until its command comes to its end; and what is left then.

::

    start ──moment──▶ blow ──▶ (start ──moment──▶ blow) ... ──▶ start until it exits 0 ──▶ judge
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import psutil

from scripts.havoc.records import Attempt, Ledger, differences, digests
from scripts.havoc.stage import WORKERS, Cluster, Command, Place, Stage, ledger_of, verified
from tests.clusters import kill

HANG_S = 180.0
"""A command that takes longer hangs."""
GONE_S = 30.0
"""That processes have to end by themselves after their client died."""
POISON = "expected a worker that survives it"
"""How blocks fail that killed workers, as far as anyone can tell; here it was us who killed those workers."""
_KILLED = -9
_COMPLETE, _STOPPED, _FAILED = 0, 1, 3
_ATTEMPTS = 6


class Anomaly(Exception):
    """Something happened that must not; says what."""


@dataclass(frozen=True)
class Blow:
    """Something that was done to a run, and what was going on then."""

    what: str
    before: Ledger
    victims: frozenset[int] | None
    """Processes that died of it; None: everybody's work may be lost."""
    segments: frozenset[str] | None = None
    """Of the ledger, when the next command was started; None: none was."""

    def in_flight(self, after: Ledger) -> Counter[str]:
        """Blocks that somebody was at, or went on to, when it fell."""
        running = {attempt.name for attempt in self.before.open()}
        known = {attempt.name for attempt in self.before.attempts}
        unended = {attempt.name for attempt in after.open()}

        def hit(attempt: Attempt) -> bool:
            if self.victims is not None and attempt.pid not in self.victims:
                return False
            if self.segments is None:  # the command went on, and so did most of what it did
                return attempt.name in running or (attempt.name in unended and attempt.name not in known)
            return attempt.segment in self.segments and (attempt.name in running or attempt.name not in known)

        return Counter(block for attempt in after.attempts if hit(attempt) for block in attempt.blocks)


@dataclass
class Result:
    """What came of a round."""

    number: int
    executor: str
    durable: bool
    blows: list[str] = field(default_factory=list)
    """That fell while the run was going on."""
    late: int = 0
    """That came when it was over."""
    codes: list[int | None] = field(default_factory=list)
    poisoned: int = 0
    """Blocks that were hit three times while alone, and had to be asked for with --retry-failed."""
    lost: int = 0
    """Blocks begun more than once."""
    twice: int = 0
    """Blocks recorded as done more than once, though nothing was wrong with them."""
    in_flight: int = 0
    """At all blows together."""
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        mode = "durable" if self.durable else "fast"
        codes = " ".join("hang" if code is None else str(code) for code in self.codes)
        counts = f"begun again {self.lost}, done twice {self.twice}, in flight {self.in_flight}"
        poison = f", {self.poisoned} poison" if self.poisoned else ""
        verdict = "same bytes" if not self.problems else "WRONG: " + "; ".join(self.problems)
        what = ", ".join(self.blows) or "nothing in time"
        return (
            f"{self.number:3d} {self.executor:9s} {mode:7s} | {what} | exits {codes} | {counts}{poison} | {verdict} | "
            f"{self.seconds:.1f} s"
        )


@dataclass(frozen=True)
class Scene:
    """Where a round takes place."""

    stage: Stage
    place: Place
    """Where the run directory is to be."""
    folder: Path
    """For logs."""
    cluster: Cluster | None = None
    """For the executor ``cluster``."""
    env: Mapping[str, str] = field(default_factory=dict)
    """In addition to the environment."""


class Play:
    """A round while it goes on.

    Parameters
    ----------
    scene : Scene
    result : Result
        To be filled.
    rng : Random
        Decides all that is left to chance here.
    """

    def __init__(self, scene: Scene, result: Result, rng: Random) -> None:
        self.stage, self.place, self._cluster = scene.stage, scene.place, scene.cluster
        self._scene, self.result, self.rng = scene, result, rng
        self._commands: list[Command] = []
        self._blows: list[Blow] = []
        self._excused: Counter[str] = Counter()
        """Blocks whose records or shards were damaged."""
        self._retry = False
        self._before: Ledger | None = None
        self.command: Command | None = None
        """The one that runs."""

    # What happens in a round.

    def start(self) -> Command:
        """Give the command, if it does not run yet."""
        if self.command is not None:
            return self.command
        ledger = ledger_of(self.place)
        self._check_kept(ledger)
        segments = frozenset(ledger.segments)
        self._blows = [replace(blow, segments=segments) if blow.segments is None else blow for blow in self._blows]
        log = self._scene.folder / f"{self.result.number}-{len(self._commands)}.log"
        words = [*self._who(), "--durable" if self.result.durable else "--no-durable"]
        if self._retry:
            words.append("--retry-failed")
            self._retry = False
        self.command = Command.start(self.stage, self.place, tuple(words), log, self._scene.env)
        self._commands.append(self.command)
        return self.command

    def wait_for_moment(self) -> bool:
        """Until a random moment of the command; False if it was over before."""
        command, have = self.start(), ledger_of(self.place).finished.total()
        if self.rng.random() < 0.25:  # while it starts
            deadline = time.monotonic() + self.rng.uniform(0, 3)
            while time.monotonic() < deadline and command.code is None:
                time.sleep(0.005)
        else:
            goal = self.rng.randint(have, len(self.stage.blocks))
            deadline = time.monotonic() + HANG_S
            while command.code is None and ledger_of(self.place).finished.total() < goal:
                if time.monotonic() > deadline:
                    command.wait(0)
                    raise Anomaly(f"no progress for {HANG_S:g} s: {command.errors()[-2000:]}")
                time.sleep(0.01)
            time.sleep(self.rng.uniform(0, 0.1))
        return command.code is None

    def strike(self, what: str, action: Callable[[], frozenset[int] | None]) -> bool:
        """Do something to the run at a random moment; whether it was in time."""
        if not self.wait_for_moment():
            self.result.late += 1
            return False
        before = ledger_of(self.place)
        victims = action()
        self._blows.append(Blow(what, before, victims))
        self.result.blows.append(f"{what} at {before.finished.total()}")
        return True

    def end(self, allowed: Mapping[int, str]) -> int | None:
        """Wait for the command; complain if its exit code is not one of these, or its message does not say this."""
        command = self.start()
        code = command.wait(HANG_S)
        self.command = None
        self.result.codes.append(code)
        said = command.errors().strip()
        if code is None:
            raise Anomaly(f"hung for {HANG_S:g} s: {said[-3000:]}")
        if code == _FAILED and _FAILED not in allowed:
            self._forgive_poison(said)
        elif code not in allowed or allowed[code] not in said:
            raise Anomaly(f"exit code {code}, allowed {dict(allowed)}; it said: {said[-3000:]!r}")
        if code == _STOPPED and len(said.splitlines()) != 1:
            raise Anomaly(f"more than one line about what stopped it: {said!r}")
        return code

    def finish(self) -> None:
        """Repeat the command until it exits 0."""
        for _ in range(_ATTEMPTS):
            if self.end({_COMPLETE: ""}) == _COMPLETE:
                return
        raise Anomaly(f"not complete after {_ATTEMPTS} commands")

    def excuse(self, blocks: Counter[str]) -> None:
        """These were damaged, and may be done again."""
        self._excused += blocks
        self._before = None

    # What can be done to it.

    def kill_client(self) -> None:
        assert self.command is not None
        self.command.kill()

    def kill_worker(self) -> frozenset[int] | None:
        """One of them, at random; once there is one."""
        assert self.command is not None
        if self.result.executor == "cluster":
            assert self._cluster is not None
            victim = self.rng.choice(self._cluster.ready().workers)
            kill(victim)
            self._cluster.ready()
            return frozenset({victim.pid})
        deadline = time.monotonic() + HANG_S
        while not (found := self.command.workers()) and self.command.code is None and time.monotonic() < deadline:
            time.sleep(0.02)
        if found:
            pid = self.rng.choice(found)
            with suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()
            return frozenset({pid})
        return frozenset()

    def kill_scheduler(self) -> None:
        assert self._cluster is not None
        kill(self._cluster.ready().scheduler)

    def kill_all(self) -> None:
        """Client, workers and scheduler, in some order."""
        assert self.command is not None
        victims = [self.command.kill_all]
        if self.result.executor == "cluster":
            assert self._cluster is not None
            cluster = self._cluster.ready()
            victims += [lambda process=process: kill(process) for process in (*cluster.workers, cluster.scheduler)]
        self.rng.shuffle(victims)
        for victim in victims:
            victim()

    # How it must be in the end.

    def settle(self) -> None:
        """Until nobody works for this run any more.

        Raises
        ------
        Anomaly
            Processes outlive their client.
        """
        deadline = time.monotonic() + GONE_S
        left = self._left()
        while left and time.monotonic() < deadline:
            time.sleep(0.1)
            left = self._left()
        if left:
            for command in self._commands:
                with suppress(ProcessLookupError):
                    os.killpg(command.process.pid, 9)
            raise Anomaly(f"processes that are left after {GONE_S:g} s: {left}")
        if self._cluster is not None and not self._cluster.settle(GONE_S):
            raise Anomaly("workers of the cluster are still busy")

    def judge(self) -> None:
        """Compare with the undisturbed run, and count."""
        self.settle()
        found, ledger, result = digests(self.place), ledger_of(self.place), self.result
        problems = result.problems
        problems += [f"{name} differs" for name in differences(found, self.stage.reference)]
        missing = self.stage.blocks - ledger.finished.keys()
        problems += [f"no record of {block}" for block in sorted(missing)]
        code, report = verified(self.place, self._scene.env)
        problems += report["problems"]
        if code or not report["complete"]:
            problems.append(f"verify ends with {code}, complete: {report['complete']}")
        temporary = [name for name in self.place.files("") if name.endswith(".tmp")]
        problems += [f"{name} is left" for name in temporary]
        self._count(ledger)

    def _count(self, ledger: Ledger) -> None:
        """What was done again, against what was in flight when it was disturbed."""
        in_flight = sum((blow.in_flight(ledger) for blow in self._blows), Counter[str]())
        result = self.result
        result.in_flight = in_flight.total()
        allowed = in_flight + self._excused
        begun = ledger.begun - Counter(self.stage.blocks)
        result.lost = (begun - self._excused).total()
        twice = ledger.finished - Counter(self.stage.blocks)
        result.twice = (twice - self._excused).total()
        for what, counted in (("begun", begun), ("done", twice)):
            beyond = counted - allowed
            if beyond:
                result.problems.append(f"{what} again though not in flight: {dict(beyond)}")

    def _forgive_poison(self, said: str) -> None:
        """Blocks that failed because we killed whoever was alone with them, three times."""
        failed = ledger_of(self.place).failed
        others = {block: error for block, error in failed.items() if POISON not in error}
        if others or not failed:
            raise Anomaly(f"failed blocks: {others or said[-3000:]}")
        self.result.poisoned += len(failed)
        self._retry = True

    def _check_kept(self, ledger: Ledger) -> None:
        """Records never vanish."""
        if self._before is not None and not self._before.finished <= ledger.finished:
            raise Anomaly(f"records went missing: {dict(self._before.finished - ledger.finished)}")
        self._before = ledger

    def _who(self) -> list[str]:
        if self.result.executor != "cluster":
            return ["--executor", self.result.executor, "--workers", str(WORKERS)]
        assert self._cluster is not None
        return ["--executor", self._cluster.ready().address]

    def _left(self) -> list[str]:
        found = []
        for command in self._commands:
            for process in command.processes():
                with suppress(psutil.Error):
                    found.append(f"{process.pid} {' '.join(process.cmdline())[:80]}")
        return found
