"""Keys as work, as simple as it can be: one queue, one job, and what came of them."""

import time
from collections import Counter

from gigatile.executors.executor import Callbacks, Outcome
from gigatile.executors.queue import Policy, Queue

QUICK = Policy(backoff_seconds=0.01, batch_seconds=0.2, least_patience_seconds=0.5)


class OneQueue:
    """`Work` over some keys; remembers what was taken, done, failed and lost."""

    def __init__(self, keys, job, policy=QUICK, begun=lambda task: task.keys):
        self.queue = Queue(keys, "job", policy, time.monotonic)
        self._job, self._begun = job, begun
        self.results, self.failures = [], []
        self.taken = Counter()
        self.losses = self.refusals = self.most_in_flight = self.alone = 0

    @property
    def finished(self):
        return self.queue.finished

    def job(self, token):
        assert token == "job"
        return self._job

    def refused(self, job, error):
        raise error

    def take(self, worker, *, idle, without=()):
        if "job" in without:
            return None
        task = self.queue.take(worker, idle=idle)
        if task is not None:
            self.taken.update(task.keys)
            self.alone += task.alone
        self.most_in_flight = max(self.most_in_flight, self.queue.in_flight)
        return task

    def done(self, task, worker, outcome):
        if self.queue.matters(task):
            self.results += outcome.results
        self.failures += self.queue.done(task, worker, outcome.failures)

    def lost(self, task, worker):
        self.losses += 1
        self.failures += self.queue.lost(task, worker, self._begun(task), ())

    def given_back(self, task, worker):
        self.refusals += 1
        self.queue.given_back(task, worker)

    def matters(self, task):
        return self.queue.matters(task)


class Each:
    """A job that calls a function of one key; picklable by value if the function is."""

    def __init__(self, function):
        self._function = function

    def prepare(self):
        return ()

    def rest(self):
        pass

    def __call__(self, keys, alone, stop, notify):
        return Outcome([self._function(key) for key in keys])


def carry(executor, keys, job, **how):
    """Run a job, or a function of a key, over keys; returns the work."""
    work = OneQueue(keys, job if hasattr(job, "prepare") else Each(job), **how)
    executor.run(work, Callbacks())
    return work
