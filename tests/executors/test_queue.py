"""Who does which key next: the queue on its own, with a clock that is moved by hand."""

import itertools
import tracemalloc

import pytest

from gigatile.errors import BlockError
from gigatile.executors.executor import Failure
from gigatile.executors.queue import Deaths, Policy, Queue

POLICY = Policy(backoff_seconds=1.0, batch_seconds=1.0, most_keys=64)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def queue_of(keys, clock, policy=POLICY, deaths=None):
    return Queue(keys, "job", policy, clock, deaths)


def failed(*keys):
    return [Failure(key, BlockError(f"block {key}")) for key in keys]


def take_all(queue, workers, clock, seconds=1.0):
    """Every worker takes and does one task after the other; the tasks, by worker."""
    taken = {worker: [] for worker in workers}
    for _ in range(10_000):
        if queue.finished:
            break
        tasks = [(worker, queue.take(worker, idle=True)) for worker in workers]
        clock.now += seconds
        for worker, task in tasks:
            if task is not None:
                taken[worker].append(task)
                queue.done(task, worker, [])
    assert queue.finished
    return taken


def test_nothing_to_do_is_finished_at_once(clock):
    assert queue_of([], clock).finished
    assert queue_of([], clock).take("a", idle=True) is None


def test_keys_of_a_worker_are_neighbours_and_those_of_two_lie_apart(clock):
    taken = take_all(queue_of(range(100), clock), "ab", clock)
    runs = {worker: [key for task in tasks for key in task.keys] for worker, tasks in taken.items()}
    assert sorted(runs["a"] + runs["b"]) == list(range(100))
    for keys in runs.values():
        assert len(keys) == 50
        jumps = sum(second != first + 1 for first, second in itertools.pairwise(keys))
        assert jumps <= 1


def test_a_worker_that_comes_late_takes_half_of_what_is_left(clock):
    queue = queue_of(range(100), clock)
    assert queue.take("a", idle=True).keys == (0,)
    assert queue.take("b", idle=True).keys == (50,)
    assert queue.take("c", idle=True).keys[0] in (25, 75)


def test_the_interval_of_a_worker_that_left_is_anybodys(clock):
    queue = queue_of(range(10), clock)
    task = queue.take("a", idle=True)
    queue.lost(task, "a", begun=(), finished=())
    assert sorted(key for task in take_all(queue, "b", clock)["b"] for key in task.keys) == list(range(10))


def test_batches_take_about_the_time_they_should_and_end_small(clock):
    queue = queue_of(range(2000), clock)
    sizes = []
    while not queue.finished:
        task = queue.take("a", idle=True)
        clock.now += 0.05 * len(task.keys)
        queue.done(task, "a", [])
        sizes.append(len(task.keys))
    assert sizes[0] == 1, "nothing is known yet of how long a key takes"
    assert max(sizes) == 20
    assert sizes[-1] == 1, "at the end all workers should end at the same time"
    assert len(sizes) < 150


def test_no_batch_is_longer_than_the_policy_says(clock):
    queue = queue_of(range(100_000), clock)
    sizes = [len(task.keys) for task in take_all(queue, "abc", clock, seconds=1e-6)["a"]]
    assert max(sizes) == POLICY.most_keys


def test_batches_grow_with_the_number_of_workers_so_that_one_client_can_serve_them(clock):
    queue = queue_of(range(10_000_000), clock, Policy(most_keys=4096))
    workers = [str(number) for number in range(1000)]
    tasks = [queue.take(worker, idle=True) for worker in workers]
    clock.now += 0.01
    for task, worker in zip(tasks, workers, strict=True):
        queue.done(task, worker, [])
    # 1,000 workers at 100 tasks a second leave 10 s for each task.
    assert len(queue.take("0", idle=True).keys) == pytest.approx(1000, rel=0.05)


def test_a_key_that_failed_waits_longer_each_time_and_then_counts_as_failed(clock):
    queue = queue_of([7], clock)
    for pause in (1.0, 4.0):
        assert queue.done(queue.take("a", idle=True), "a", failed(7)) == []
        clock.now += pause - 0.01
        assert queue.take("a", idle=True) is None
        assert not queue.finished
        clock.now += 0.02
    final = failed(7)
    assert queue.done(queue.take("a", idle=True), "a", final) == final
    assert queue.finished


def test_a_key_that_failed_goes_to_another_worker_where_there_is_one(clock):
    queue = queue_of(range(2), clock)
    task = queue.take("a", idle=True)
    other = queue.take("b", idle=True)
    queue.done(task, "a", failed(0))
    clock.now += 1.5
    assert queue.take("a", idle=True) is None
    queue.done(other, "b", [])
    assert queue.take("b", idle=True).keys == (0,)


def test_a_key_that_failed_does_not_wait_forever_for_a_worker_that_never_asks_again(clock):
    queue = queue_of(range(2), clock)
    task = queue.take("a", idle=True)
    queue.done(queue.take("b", idle=True), "b", [])
    queue.done(task, "a", failed(0))
    clock.now += 1.0 + POLICY.elsewhere_seconds
    assert queue.take("a", idle=True).keys == (0,)


def test_a_worker_that_refused_its_task_is_no_elsewhere(clock):
    queue = queue_of(range(2), clock)
    task = queue.take("a", idle=True)
    queue.given_back(queue.take("b", idle=True), "b")
    queue.done(task, "a", failed(0))
    clock.now += 1.5
    taken = {queue.take("a", idle=True).keys, queue.take("a", idle=False).keys}
    assert taken == {(0,), (1,)}


def test_what_was_given_back_is_nobodys_fault_however_often(clock):
    queue = queue_of([7], clock)
    for _ in range(10):
        queue.given_back(queue.take("a", idle=True), "a")
    task = queue.take("a", idle=True)
    assert not task.alone
    assert queue.done(task, "a", []) == []
    assert queue.finished


def batch_of_four(clock):
    """A queue of 17 keys of which 0 is done and worker "a" has 1 to 4."""
    queue = queue_of(range(17), clock)
    first = queue.take("a", idle=True)
    clock.now += 0.01
    queue.done(first, "a", [])
    task = queue.take("a", idle=True)
    assert (first.keys, task.keys) == ((0,), (1, 2, 3, 4))
    return queue, task


def test_a_key_is_poison_after_three_deaths_alone_and_its_neighbours_are_not_blamed(clock):
    queue, task = batch_of_four(clock)
    assert queue.lost(task, "a", begun=task.keys, finished=()) == []
    given_up, done, deaths = [], [], 0
    for number in range(1, 50):
        if queue.finished:
            break
        worker = f"w{number}"
        task = queue.take(worker, idle=True)
        assert task.alone == (set(task.keys) <= {1, 2, 3, 4})
        if task.keys == (2,):
            deaths += 1
            given_up += queue.lost(task, worker, begun=task.keys, finished=())
        else:
            done += task.keys
            assert queue.done(task, worker, []) == []
    assert [failure.key for failure in given_up] == [2]
    assert "4 that died" in str(given_up[0].error)
    assert deaths == 3
    assert sorted(done) == [1, *range(3, 17)]


def test_what_a_dead_worker_had_not_begun_is_done_next_to_others_again(clock):
    queue = queue_of([7], clock)
    queue.lost(queue.take("a", idle=True), "a", begun=(), finished=())
    assert not queue.take("b", idle=True).alone


def test_what_is_lost_three_times_without_having_begun_is_looked_at_alone(clock):
    queue = queue_of([7], clock)
    for worker in "abc":
        queue.lost(queue.take(worker, idle=True), worker, begun=(), finished=())
    assert queue.take("d", idle=True).alone


def test_what_a_dead_worker_had_finished_is_not_done_again(clock):
    queue = queue_of([7], clock)
    assert queue.lost(queue.take("a", idle=True), "a", begun=[7], finished=[7]) == []
    assert queue.finished


def test_suspects_of_earlier_runs_come_first_and_alone(clock):
    queue = queue_of(range(10), clock, deaths={5: Deaths(1, 0), 8: Deaths(2, 2)})
    first, second = queue.take("a", idle=True), queue.take("b", idle=True)
    assert [(task.keys, task.alone) for task in (first, second)] == [((5,), True), ((8,), True)]
    # Its third death alone, two of them in earlier runs.
    assert [failure.key for failure in queue.lost(second, "b", [8], ())] == [8]
    queue.done(first, "a", [])
    rest = [key for task in take_all(queue, "c", clock)["c"] for key in task.keys]
    assert rest == [0, 1, 2, 3, 4, 6, 7, 9]


def test_a_queue_of_nothing_but_suspects_is_finished_with_its_last_answer(clock):
    queue = queue_of([3], clock, deaths={3: Deaths(1, 0)})
    queue.done(queue.take("a", idle=True), "a", [])
    assert queue.finished, "nobody asks again once there is nothing in hand"


def test_one_busy_worker_is_let_run_dry_for_a_suspect_and_the_others_go_on(clock):
    queue = queue_of(range(100), clock, deaths={50: Deaths(1, 0)})
    assert queue.take("a", idle=False) is None
    assert queue.take("b", idle=False).keys == (0,)
    assert queue.take("a", idle=False) is None
    assert queue.take("a", idle=True).keys == (50,)
    assert queue.take("a", idle=False) is not None


def test_a_suspect_that_was_given_back_stays_one(clock):
    queue = queue_of([3], clock, deaths={3: Deaths(1, 0)})
    queue.given_back(queue.take("a", idle=True), "a")
    assert queue.take("a", idle=True).alone


@pytest.fixture
def straggling(clock):
    """Two keys that took a second, and one that takes long: worker "a" has it, "b" is idle."""
    queue = queue_of(range(3), clock)
    slow = queue.take("a", idle=True)
    for _ in range(2):
        task = queue.take("b", idle=True)
        clock.now += 1
        queue.done(task, "b", [])
    return queue, slow


def test_no_second_worker_is_given_what_takes_as_long_as_may_be(straggling, clock):
    queue, _ = straggling
    assert queue.take("b", idle=True) is None
    clock.now += 2.9
    assert queue.take("b", idle=True) is None


def late(clock):
    clock.now += 10


def test_what_takes_far_longer_than_the_rest_is_given_to_a_second_idle_worker_once(straggling, clock):
    queue, slow = straggling
    late(clock)
    assert queue.take("a", idle=True) is None, "the one that has it"
    assert queue.take("b", idle=False) is None, "one that has something to do"
    assert queue.take("b", idle=True).keys == slow.keys
    assert queue.take("c", idle=True) is None, "there are two already"


def test_the_first_of_two_answers_counts_and_the_late_one_is_ignored(straggling, clock):
    queue, slow = straggling
    late(clock)
    twin = queue.take("b", idle=True)
    assert queue.matters(slow)
    queue.done(twin, "b", [])
    assert queue.finished
    assert not queue.matters(slow)
    assert queue.done(slow, "a", failed(*slow.keys)) == []
    assert queue.finished


def test_a_late_death_is_ignored_too(straggling, clock):
    queue, slow = straggling
    late(clock)
    queue.done(queue.take("b", idle=True), "b", [])
    assert queue.lost(slow, "a", slow.keys, ()) == []
    assert queue.finished


@pytest.mark.parametrize("first_is_slow", [True, False])
@pytest.mark.parametrize("end", ["dies", "fails", "gives back"])
def test_if_one_of_two_comes_to_nothing_the_other_goes_on(straggling, clock, end, first_is_slow):
    queue, slow = straggling
    late(clock)
    pair = [(slow, "a"), (queue.take("b", idle=True), "b")]
    (gone, its_worker), (left, other) = pair if first_is_slow else pair[::-1]
    if end == "dies":
        assert queue.lost(gone, its_worker, gone.keys, ()) == []
    elif end == "fails":
        assert queue.done(gone, its_worker, failed(*gone.keys)) == []
    else:
        queue.given_back(gone, its_worker)
    assert not queue.finished
    assert queue.matters(left)
    assert queue.done(left, other, []) == []
    assert queue.finished


def test_if_both_of_two_fail_the_key_is_tried_again(straggling, clock):
    queue, slow = straggling
    late(clock)
    twin = queue.take("b", idle=True)
    queue.done(slow, "a", failed(*slow.keys))
    queue.done(twin, "b", failed(*slow.keys))
    clock.now += 2
    assert not queue.finished
    queue.done(queue.take("a", idle=True), "a", [])
    assert queue.finished


def test_if_both_of_two_die_the_key_is_tried_again(straggling, clock):
    queue, slow = straggling
    late(clock)
    twin = queue.take("b", idle=True)
    queue.lost(slow, "a", slow.keys, ())
    queue.lost(twin, "b", slow.keys, ())
    assert queue.take("c", idle=True).keys == slow.keys


def test_what_the_first_of_two_did_is_told_once_and_what_it_failed_at_is_tried_again(clock):
    queue, slow = batch_of_four(clock)
    while (task := queue.take("b", idle=True)) is not None:
        queue.done(task, "b", [])
    late(clock)
    twin = queue.take("b", idle=True)
    assert twin.keys == slow.keys
    queue.done(slow, "a", failed(3))
    assert not queue.matters(twin), "it would tell of 1, 2 and 4 a second time"
    queue.done(twin, "b", [])
    clock.now += 1
    again = queue.take("b", idle=True)
    assert again.keys == (3,)
    queue.done(again, "b", [])
    assert queue.finished


def test_what_a_dead_first_of_two_had_finished_is_told_once_and_the_rest_is_done_again(clock):
    queue, slow = batch_of_four(clock)
    while (task := queue.take("b", idle=True)) is not None:
        queue.done(task, "b", [])
    late(clock)
    twin = queue.take("b", idle=True)
    assert queue.lost(slow, "a", begun=slow.keys, finished=[1, 2]) == []
    assert not queue.matters(twin)
    queue.done(twin, "b", [])
    again = [queue.take("b", idle=True) for _ in range(2)]
    assert sorted(task.keys for task in again) == [(3,), (4,)]


def test_the_answer_to_a_task_of_another_queue_is_ignored(clock):
    queue, other = queue_of([1], clock), queue_of([2], clock)
    strange = other.take("a", idle=True)
    own = queue.take("a", idle=True)
    assert not queue.matters(strange)
    assert queue.done(strange, "a", failed(2)) == []
    assert queue.lost(strange, "b", [2], ()) == []
    queue.given_back(strange, "b")
    queue.done(own, "a", [])
    assert queue.finished


def test_memory_does_not_grow_with_the_number_of_keys(clock):
    def held(keys):
        tracemalloc.start()
        queue = queue_of(range(keys), clock, Policy(most_keys=10))
        for _ in range(30):
            for worker in ("a", "b", "c"):
                queue.done(queue.take(worker, idle=True), worker, [])
        used = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return used

    held(2_000)
    assert held(10_000_000) < held(2_000) + 10_000


def test_workers_that_came_and_went_are_forgotten(clock):
    queue = queue_of(range(1_000_000), clock)
    for number in range(500):
        worker = f"tcp://10.0.0.1:{number}"
        queue.done(queue.take(worker, idle=True), worker, [])
        clock.now += 1
    held = len(queue._workers) + len(queue._owned)
    assert held <= 2 * 2 * POLICY.elsewhere_seconds + 4


def test_a_key_that_was_not_begun_is_not_blamed_though_it_was_to_be_done_alone(clock):
    queue = Queue(range(1), "job", Policy(deaths=3), clock, {0: Deaths(1, 0)})
    for _ in range(5):
        task = queue.take("a", idle=True)
        assert task.alone
        assert queue.lost(task, "a", begun=(), finished=()) == []
    assert queue.deaths_of(0) == Deaths(1, 0)


def test_deaths_of_which_no_beginning_is_known_end_some_time(clock):
    queue = Queue(range(1), "job", Policy(deaths=3), clock, {0: Deaths(1, 0)})
    given_up, tries = [], 0
    while not queue.finished:
        tries += 1
        given_up += queue.lost(queue.take("a", idle=True), "a", begun=(), finished=())
        assert tries < 50
    assert [failure.key for failure in given_up] == [0]
    assert tries > 9
