"""Whatever workers do, and in whatever order: every key ends as done or as given up, once, and none goes missing."""

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gigatile.errors import BlockError
from gigatile.executors.executor import Failure
from gigatile.executors.queue import Deaths, Policy, Queue

POLICY = Policy(backoff_seconds=1.0, batch_seconds=1.0, most_keys=8, least_patience_seconds=2.0, elsewhere_seconds=50.0)
WINDOW = 2


class Workers(RuleBasedStateMachine):
    """Workers that take, finish, fail, refuse, die, come and go; `ended` counts what was told of each key."""

    @initialize(
        keys=st.sampled_from([0, 1, 2, 5, 20, 60]),
        suspects=st.dictionaries(st.integers(0, 19), st.integers(0, 2), max_size=2),
    )
    def begin(self, keys, suspects):
        self.now = 0.0
        deaths = {key: Deaths(alone + 1, alone) for key, alone in suspects.items() if key < keys}
        self.keys, self.suspects = keys, set(deaths)
        self.queue = Queue(range(keys), "job", POLICY, lambda: self.now, deaths)
        self.workers = {}
        self.ended = {}
        self.failures, self.deaths, self.alone_deaths = {}, {}, {key: d.alone for key, d in deaths.items()}
        self.failed_at = {}
        self.number = 0
        self.comes()

    @rule()
    def comes(self):
        self.number += 1
        self.workers[f"w{self.number}"] = []

    @rule(seconds=st.sampled_from([0.01, 0.3, 1.0, 5.0, 60.0]))
    def time_passes(self, seconds):
        self.now += seconds

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def takes(self, data):
        worker = data.draw(st.sampled_from(sorted(self.workers)))
        self.take(worker)

    def take(self, worker):
        held = self.workers[worker]
        if len(held) == WINDOW or any(task.alone for task in held):
            return None
        task = self.queue.take(worker, idle=not held)
        if task is None:
            return None
        assert 1 <= len(task.keys) <= POLICY.most_keys
        assert not task.alone or not held
        assert not set(task.keys) & {key for other in held for key in other.keys}, "twice with one worker"
        for key in task.keys:
            assert key not in self.ended, "it was over"
            assert task.alone or key not in self.suspects, "a suspect beside others"
            if key in self.failed_at:
                when, where = self.failed_at.pop(key)
                pause = POLICY.backoff_seconds * 4 ** (self.failures[key] - 1)
                assert self.now >= when + pause
                if worker == where and self.now < when + pause + POLICY.elsewhere_seconds:
                    active = self.queue._workers.keys()
                    assert active <= {worker}, f"{active} could have done it"
        held.append(task)
        return task

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def works_off_what_it_can(self, data):
        """Until nothing is left to hand out, so that what the others have takes far too long."""
        worker = data.draw(st.sampled_from(sorted(self.workers)))
        for _ in range(self.keys):
            if not self.workers[worker] and self.take(worker) is None:
                break
            self.now += 0.1
            self.answer(worker, bad=())
        self.now += 20.0

    def over(self, key, what):
        assert key not in self.ended, f"{key}: told twice"
        self.ended[key] = what

    def holding(self):
        return sorted(worker for worker, held in self.workers.items() if held)

    @precondition(lambda self: self.holding())
    @rule(data=st.data())
    def finishes(self, data):
        worker = data.draw(st.sampled_from(self.holding()))
        self.answer(worker, bad=())

    @precondition(lambda self: self.holding())
    @rule(data=st.data())
    def fails(self, data):
        worker = data.draw(st.sampled_from(self.holding()))
        bad = data.draw(st.sets(st.sampled_from(self.workers[worker][0].keys), min_size=1))
        self.answer(worker, bad)

    def answer(self, worker, bad):
        task = self.workers[worker].pop(0)
        counts = self.queue.matters(task)
        failures = [Failure(key, BlockError(f"block {key}")) for key in sorted(bad)]
        given_up = {failure.key for failure in self.queue.done(task, worker, failures)}
        assert given_up <= set(bad)
        if not counts:
            assert not given_up
            return
        for key in task.keys:
            if key not in bad:
                self.over(key, "done")
        if len(bad) == len(task.keys) and self.in_other_hands(task):
            assert not given_up, "another worker is at it"
            return
        for key in bad:
            self.failures[key] = self.failures.get(key, 0) + 1
            assert (key in given_up) == (self.failures[key] >= POLICY.tries)
            if key in given_up:
                self.over(key, "failed")
            else:
                self.failed_at[key] = (self.now, worker)
                # The worker survived it.
                self.suspects.discard(key)

    def in_other_hands(self, task):
        held = [other for tasks in self.workers.values() for other in tasks if self.queue.matters(other)]
        return any(other.keys == task.keys for other in held)

    @precondition(lambda self: self.holding())
    @rule(data=st.data())
    def refuses(self, data):
        worker = data.draw(st.sampled_from(self.holding()))
        self.queue.given_back(self.workers[worker].pop(0), worker)

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def dies(self, data):
        """It was at the first of its tasks, all of which counts as begun."""
        worker = data.draw(st.sampled_from(sorted(self.workers)))
        held = self.workers.pop(worker)
        for place, task in enumerate(held):
            finished = data.draw(st.sets(st.sampled_from(task.keys))) if place == 0 else set()
            counts = self.queue.matters(task)
            begun = set(task.keys) if place == 0 else set()
            given_up = {failure.key for failure in self.queue.lost(task, worker, begun, finished)}
            if not counts:
                assert not given_up
                continue
            for key in finished:
                self.over(key, "done")
            blamed = set() if self.in_other_hands(task) else (begun | set(task.keys if task.alone else ())) - finished
            for key in blamed:
                alone = task.alone or len(begun - finished) == 1
                self.alone_deaths[key] = self.alone_deaths.get(key, 0) + alone
                assert (key in given_up) == (self.alone_deaths[key] >= POLICY.deaths)
                self.suspects.add(key)
            assert given_up <= blamed, "an innocent key is blamed"
            for key in given_up:
                self.over(key, "poison")

    @invariant()
    def nothing_is_over_before_its_time(self):
        if hasattr(self, "queue"):
            assert self.queue.finished == (len(self.ended) == self.keys)
            assert self.queue.in_flight == sum(len(held) for held in self.workers.values())

    def teardown(self):
        """From wherever this led, workers that do what they should bring it to its end."""
        if not hasattr(self, "queue"):
            return
        self.comes()
        for _ in range(20 * (self.keys + 1)):
            if self.queue.finished:
                break
            for worker in sorted(self.workers):
                self.take(worker)
            for worker in self.holding():
                self.answer(worker, bad=())
            self.now += 3.0
        assert self.queue.finished
        assert sorted(self.ended) == list(range(self.keys))


TestWorkers = Workers.TestCase
TestWorkers.settings = settings(
    max_examples=120,
    stateful_step_count=40,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
