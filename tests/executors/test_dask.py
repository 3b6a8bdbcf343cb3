"""What only processes of a cluster do: die, come, go, hang, refuse."""

import itertools
import os
import re
import signal
import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from distributed import Client

import gigatile.executors.dask as dask_module
from gigatile.errors import GigatileError, StorageError, UsageError
from gigatile.executors.clusters import existing_cluster, local_cluster
from gigatile.executors.dask import DaskExecutor
from gigatile.executors.executor import Callbacks
from gigatile.executors.queue import Policy
from tests.clusters import kill, separate_cluster
from tests.executors.listing import Each, OneQueue, carry

ONE_BY_ONE = Policy(backoff_seconds=0.01, most_keys=1, least_patience_seconds=0.5)


@pytest.fixture(scope="module")
def local():
    """Two worker processes, started again when they die."""
    with local_cluster(2) as client:
        yield client


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with separate_cluster(tmp_path_factory.mktemp("shared"), threads=1) as found:
        yield found


@pytest.fixture
def cluster(shared):
    """Two worker processes that nobody starts again."""
    alive = shared.alive()
    for surplus in alive[2:]:
        kill(surplus)
    for _ in range(2 - len(alive)):
        shared.add_worker()
    with Client(shared.address, set_as_default=False) as client:
        wait_until(lambda: len(client.scheduler_info(n_workers=-1)["workers"]) == 2)
    return shared


@contextmanager
def running(client, work, warned=None):
    """The run in another thread; what it raised, if anything, is in the list at the end."""
    raised = []

    def target():
        try:
            DaskExecutor(client).run(work, Callbacks(warn=(warned if warned is not None else []).append))
        except Exception as error:  # noqa: BLE001  judged by the test
            raised.append(error)

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    yield raised
    thread.join(60)
    assert not thread.is_alive(), "the run hangs"


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.02)


def nap(seconds):
    def job(key):
        time.sleep(seconds)
        return key

    return job


def deadly(folder, key_that_kills, times):
    """A job that kills its process at a key, so many times."""

    def job(key):
        if key == key_that_kills:
            for number in range(times):
                try:
                    os.close(os.open(f"{folder}/{number}", os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    continue
                os._exit(9)
        return key

    return job


def test_a_key_whose_worker_died_is_done_by_another(local, tmp_path):
    work = carry(DaskExecutor(local), range(8), deadly(str(tmp_path), 3, times=1), policy=ONE_BY_ONE)
    assert len(list(tmp_path.iterdir())) == 1, "nobody died"
    assert (sorted(work.results), work.failures) == (list(range(8)), [])
    assert work.losses >= 1


def test_a_key_that_kills_every_worker_is_failed_alone_and_all_others_are_done(local, tmp_path):
    work = carry(DaskExecutor(local), range(8), deadly(str(tmp_path), 3, times=100), policy=ONE_BY_ONE)
    assert [failure.key for failure in work.failures] == [3]
    assert re.search(
        r"[34] that died while they did it, 3 of them while doing nothing else", str(work.failures[0].error)
    )
    assert sorted(work.results) == [0, 1, 2, 4, 5, 6, 7]
    assert len(list(tmp_path.iterdir())) in (3, 4)


def test_neither_resources_nor_locks_nor_retries_of_dask_are_used():
    source = "".join(path.read_text() for path in Path(dask_module.__file__).parent.glob("*.py"))
    assert "submit(" in source
    assert not re.search(r"resources\s*=|\bretries\s*=|\bLock\(\s*[\"']|import .*\bLock\b", source)


def test_nothing_is_left_on_the_scheduler(local):
    carry(DaskExecutor(local), range(50), nap(0.001), policy=ONE_BY_ONE)
    content = os.urandom(2 << 20)
    carry(DaskExecutor(local), range(20), lambda key: content[key], policy=ONE_BY_ONE)
    wait_until(lambda: local.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)) == 0)


def test_the_scheduler_holds_no_more_than_the_window(local):
    most = []

    class Looking(OneQueue):
        def done(self, *words):
            super().done(*words)
            if len(self.results) % 20 == 0:
                most.append(local.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)))

    work = Looking(range(200), Each(nap(0.001)), ONE_BY_ONE)
    DaskExecutor(local).run(work, Callbacks())
    # Those of the window, and those that were heard of and are being let go.
    assert 0 < max(most) <= 2 * dask_module.WINDOW * 2 + 2


def test_a_worker_that_comes_late_takes_part(cluster):
    def job(key):
        time.sleep(0.05)
        return os.getpid()

    with existing_cluster(cluster.address) as client:
        work = OneQueue(range(150), Each(job), ONE_BY_ONE)
        with running(client, work):
            wait_until(lambda: len(work.results) >= 10)
            late = cluster.add_worker()
    assert len(work.results) == 150
    assert late.pid in work.results


def test_workers_that_are_killed_and_added_cost_only_what_they_had_in_hand(cluster):
    with existing_cluster(cluster.address) as client:
        work = OneQueue(range(300), Each(nap(0.02)), ONE_BY_ONE)
        with running(client, work) as raised:
            for goal in (50, 150):
                wait_until(lambda goal=goal: len(work.results) >= goal)
                victim = cluster.alive()[0]
                cluster.add_worker()
                os.kill(victim.pid, signal.SIGKILL)
                victim.wait()
    assert not raised
    assert sorted(work.results) == list(range(300))
    assert sum(work.taken.values()) - 300 <= 2 * dask_module.WINDOW


def test_a_cluster_that_loses_all_workers_goes_on_with_the_next_and_says_what_it_waits_for(cluster, monkeypatch):
    monkeypatch.setattr(dask_module, "LONELY_SECONDS", 1.0)
    warned = []
    with existing_cluster(cluster.address) as client:
        work = OneQueue(range(60), Each(nap(0.02)), ONE_BY_ONE)
        with running(client, work, warned) as raised:
            wait_until(lambda: len(work.results) >= 5)
            for worker in cluster.alive():
                kill(worker)
            wait_until(lambda: warned)
            cluster.add_worker()
    assert not raised
    assert sorted(work.results) == list(range(60))
    assert warned == ["the cluster has no worker at present: the run waits for one"]


def test_a_retired_worker_hands_back_what_it_had_not_begun(cluster):
    with existing_cluster(cluster.address) as client:
        work = OneQueue(range(100), Each(nap(0.02)), ONE_BY_ONE, begun=lambda task: ())
        with running(client, work) as raised:
            wait_until(lambda: len(work.results) >= 10)
            client.retire_workers([next(iter(client.scheduler_info(n_workers=-1)["workers"]))])
    assert not raised
    assert sorted(work.results) == list(range(100))
    assert not work.failures


def test_a_killed_scheduler_ends_the_run_within_seconds_and_says_what_to_do(tmp_path):
    began = []
    with separate_cluster(tmp_path, workers=1, threads=1) as cluster, existing_cluster(cluster.address) as client:
        work = OneQueue(range(100_000), Each(nap(0.02)), ONE_BY_ONE)
        with running(client, work) as raised:
            wait_until(lambda: len(work.results) >= 5)
            kill(cluster.scheduler)
            began.append(time.monotonic())
    assert time.monotonic() - began[0] < 20
    assert [type(error) for error in raised] == [GigatileError]
    assert "scheduler" in str(raised[0])
    assert "repeat the command" in str(raised[0])


def only_with(variable, seconds=0):
    """A job that can be done only where the environment says so."""

    class Picky(Each):
        def prepare(self):
            if variable not in os.environ:
                raise StorageError("/data", expected="the run directory", found="no such directory")
            return (f"has {variable}",)

    def job(key):
        time.sleep(seconds)
        return os.getpid()

    return Picky(job)


def test_a_worker_that_cannot_do_the_job_is_told_of_once_and_left_out(tmp_path):
    warned = []
    with separate_cluster(tmp_path, workers=1, threads=1) as cluster:
        able = cluster.add_worker(env={"SEES_THE_DISK": "1"})
        cluster.wait_for_workers(2)
        with existing_cluster(cluster.address) as client:
            work = OneQueue(range(50), only_with("SEES_THE_DISK"), ONE_BY_ONE)
            DaskExecutor(client).run(work, Callbacks(warn=warned.append))
    assert set(work.results) == {able.pid}
    assert len(work.results) == 50
    assert not work.failures
    refusals = [text for text in warned if "is not used" in text]
    assert len(refusals) == 1
    assert "expected the run directory" in refusals[0]
    assert [text for text in warned if "has SEES_THE_DISK" in text]


def test_a_run_whose_only_able_worker_died_says_that_it_waits_for_another(tmp_path, monkeypatch):
    monkeypatch.setattr(dask_module, "LONELY_SECONDS", 1.0)
    warned = []
    with separate_cluster(tmp_path, workers=1, threads=1) as cluster:
        able = cluster.add_worker(env={"SEES_THE_DISK": "1"})
        cluster.wait_for_workers(2)
        with existing_cluster(cluster.address) as client:
            work = OneQueue(range(200), only_with("SEES_THE_DISK", 0.05), ONE_BY_ONE)
            with running(client, work, warned) as raised:
                wait_until(lambda: work.results and any("is not used" in text for text in warned))
                kill(able)
                wait_until(lambda: any("no worker that can do the work at present" in text for text in warned))
                cluster.add_worker(env={"SEES_THE_DISK": "1"})
    assert not raised
    assert len(work.results) == 200


def test_where_no_worker_can_do_the_job_the_run_ends_with_their_reason(local):
    with pytest.raises(StorageError, match="expected the run directory"):
        carry(DaskExecutor(local), range(50), only_with("NOBODY_HAS_THIS"))


def test_a_worker_without_what_the_job_imports_is_a_clear_error(local):
    class Foreign(Each):
        def __reduce__(self):
            import importlib

            return importlib.import_module, ("a_package_that_workers_lack",)

    with pytest.raises(GigatileError, match="found ModuleNotFoundError: No module named 'a_package_that_workers_lack'"):
        carry(DaskExecutor(local), range(5), Foreign(nap(0)))


def test_a_job_that_no_worker_survives_to_take_in_ends_the_run(local, monkeypatch):
    monkeypatch.setattr(dask_module, "DEATHS_PREPARING", 2)

    class Crashing(Each):
        def prepare(self):
            os._exit(9)

    with pytest.raises(GigatileError, match="2 that died of it, and none that did not"):
        carry(DaskExecutor(local), range(5), Crashing(nap(0)))
    wait_until(lambda: len(local.scheduler_info(n_workers=-1)["workers"]) == 2)


def hanging(folder, key_that_hangs, seconds):
    """A job that takes long at a key, the first time."""

    def job(key):
        if key == key_that_hangs:
            try:
                os.close(os.open(f"{folder}/hung", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return key
            time.sleep(seconds)
        return key

    return job


def test_a_straggler_is_done_by_another_worker_and_not_waited_for(local, tmp_path):
    began = time.monotonic()
    work = carry(DaskExecutor(local), range(20), hanging(str(tmp_path), 4, seconds=8), policy=ONE_BY_ONE)
    assert time.monotonic() - began < 8
    assert sorted(work.results) == list(range(20))
    assert work.taken[4] == 2
    # The next run waits for the worker that is still at it, or does without it.
    assert sorted(carry(DaskExecutor(local), range(5), nap(0)).results) == list(range(5))


def test_what_fails_in_a_task_that_matters_no_more_does_not_end_the_run(local, tmp_path):
    """Another worker was first, the image is complete, and what the straggler was writing was cleared away."""
    begun = tmp_path / "begun"

    class Cohort(OneQueue):
        def matters(self, task):
            return 0 not in task.keys or not begun.exists()

        def given_back(self, task, worker):
            self.refusals += 1
            self.queue.done(task, worker, ())

    def job(key):
        if key == 0:
            begun.touch()
            time.sleep(1)
            raise StorageError("a shard", expected="a temporary file", found="none")
        time.sleep(0.1)
        return key

    work = Cohort(range(40), Each(job), ONE_BY_ONE)
    DaskExecutor(local).run(work, Callbacks())
    assert work.refusals >= 1
    assert set(range(40)) - set(work.results) == {0}


def test_a_large_job_survives_the_worker_that_spread_it(cluster):
    content = os.urandom(3 << 20)

    def job(key):
        time.sleep(0.01)
        return content[key]

    def holders(dask_scheduler):
        return [
            int(state.name)
            for task in dask_scheduler.tasks.values()
            if task.run_spec is None
            for state in task.who_has or ()
        ]

    with existing_cluster(cluster.address) as client:
        work = OneQueue(range(300), Each(job), ONE_BY_ONE)
        with running(client, work) as raised:
            wait_until(lambda: len(work.results) >= 5)
            for holder in client.run_on_scheduler(holders):
                kill(cluster.workers[holder])
            cluster.add_worker()
            cluster.add_worker()
    assert not raised
    assert sorted(work.results) == sorted(content[:300])


def test_a_process_at_the_address_of_a_dead_one_is_told_apart(cluster):
    """What the dead one had in hand counts as lost, not as refused."""

    def job(key):
        # As if the process were another one, that never saw the job.
        import gigatile.executors.worker as here

        here._JOBS.clear()
        here._PROCESS = f"another than before {key}"
        return key

    with existing_cluster(cluster.address) as client:
        work = OneQueue(range(10), Each(job), ONE_BY_ONE, begun=lambda task: ())
        DaskExecutor(client).run(work, Callbacks())
    assert sorted(work.results) == list(range(10))
    assert work.losses > 0
    assert not work.failures


def test_jobs_of_many_images_come_and_go_in_a_worker(local):
    class Several:
        """Three jobs, in turn, of a key each."""

        def __init__(self):
            self.parts = {name: OneQueue(range(12), Each(lambda key, name=name: (name, key))) for name in "abc"}
            for name, part in self.parts.items():
                part.queue._job = name
            self.turn = itertools.cycle("abc")

        finished = property(lambda self: all(part.finished for part in self.parts.values()))

        def take(self, worker, *, idle, without=()):
            return next(filter(None, (self.parts[next(self.turn)].take(worker, idle=idle) for _ in "abc")), None)

        def job(self, token):
            return self.parts[token].job("job")

        def __getattr__(self, name):
            return lambda task, *words: getattr(self.parts[task.job], name)(task, *words)

    work = Several()
    DaskExecutor(local).run(work, Callbacks())
    results = [result for part in work.parts.values() for result in part.results]
    assert sorted(results) == sorted(itertools.product("abc", range(12)))


def test_a_taken_dashboard_port_is_no_reason_to_warn():
    with socket.socket() as taken:
        try:
            taken.bind(("", 8787))
            taken.listen()
        except OSError:
            pass  # by someone else, which is as good
        with local_cluster(1) as client:
            assert len(client.scheduler_info()["workers"]) == 1


class Hasty(Client):
    def __init__(self, **how):
        super().__init__(**{**how, "timeout": "1s"})


@pytest.mark.usefixtures("abandoned_clients_are_collected")
def test_an_address_where_nobody_answers_is_a_usage_error(monkeypatch):
    monkeypatch.setattr("distributed.Client", Hasty)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(UsageError) as raised, existing_cluster(address):
            pass
    assert address in str(raised.value)
    assert "dask scheduler" in str(raised.value)
