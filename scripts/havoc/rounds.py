"""The kinds of rounds: kills while it runs, a full disk, a storage that is away, files that were damaged meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

from scripts.havoc.damage import HARMS, SEEN_BY_SIZE
from scripts.havoc.play import Anomaly, Play, Result, Scene
from scripts.havoc.stage import Cluster, Folder, Place, Prefix, Stage, ledger_of, small_disk, verified
from tests.faulty_proxy import Faults, FaultyProxy, faulty_proxy
from tests.object_store import ObjectStoreServer, object_store

KILLS = {
    "threads": ("client",),
    "processes": ("client", "worker", "all"),
    "cluster": ("client", "worker", "scheduler", "all"),
}
"""What can be killed. With threads the client is all there is; with processes the scheduler lives in the client."""
SHORT_CUT_S = 4.0
_DISK_MB = 48
_SPARE_BYTES = 40_000
"""Left free of a full disk, at most: so that it is full at another write each time."""
_DAMAGED = 3


@dataclass
class Ring:
    """Where rounds take place, and what they need."""

    stage: Stage
    folder: Path
    executors: Sequence[str]
    seed: int
    _stack: ExitStack = field(default_factory=ExitStack)
    _cluster: Cluster | None = None
    _server: ObjectStoreServer | None = None
    _proxy: FaultyProxy | None = None
    _remote: Cluster | None = None

    def kills(self, number: int, wanted: int) -> Result:
        """A round of up to `wanted` kills, three at most."""
        rng, executor = self._chance(number)
        with self._play(number, executor, rng, Folder(self.folder / f"round-{number}")) as play:
            for _ in range(min(wanted, rng.randint(1, 3))):
                victim = rng.choice(KILLS[executor])
                if not play.strike(f"kill {victim}", getattr(play, f"kill_{victim}")):
                    break
                self._after_kill(play, victim, rng)
        return play.result

    def _after_kill(self, play: Play, victim: str, rng: Random) -> None:
        if victim == "worker":
            return  # the command goes on
        if victim == "scheduler":
            # It may not have been asked for anything yet, or the run ended between the look and the kill.
            play.end({1: "the Dask scheduler", 2: "expected a Dask scheduler at this address", 0: ""})
        else:
            play.end({-9: "", 0: ""})
        if rng.random() < 0.5:
            play.settle()

    def full_disk(self, number: int) -> Result:
        """The disk is full at some moment, and has room again later."""
        rng, executor = self._chance(number)
        with (
            small_disk(self.folder / f"disk-{number}", _DISK_MB) as disk,
            self._play(number, executor, rng, Folder(disk / "out")) as play,
        ):
            if play.strike("fill the disk", lambda: _fill(disk, rng)):
                play.end({1: "Free some space", 0: ""})
            (disk / "ballast").unlink(missing_ok=True)
        return play.result

    def cut_storage(self, number: int, *, long: bool) -> Result:
        """A bucket refuses every request for a while, or until the run gives up."""
        rng, executor = self._chance(number)
        server, proxy = self._bucket()
        place = Prefix(server, f"{server.make_bucket(f'chaos-{number}')}/out")
        env = {**server.env, "AWS_ENDPOINT_URL": proxy.endpoint}
        if executor == "cluster" and self._remote is None:
            self._remote = Cluster(self.folder / "remote", env)
            self._stack.callback(self._remote.close)
        cluster = self._remote if executor == "cluster" else None
        with self._play(number, executor, rng, place, cluster=cluster, env=env) as play:

            def cut() -> None:
                proxy.faults = replace(proxy.faults, error=1.0)

            if play.strike("cut the storage", cut):
                if long:
                    play.end({1: "run the same command again", 0: ""})
                else:
                    time.sleep(SHORT_CUT_S)
            proxy.calm()
        return play.result

    def harm(self, number: int, kind: str) -> Result:
        """Files are damaged after a kill, or after the end; seen by ``verify``, mended by the same command."""
        rng, executor = self._chance(number)
        place = Folder(self.folder / f"round-{number}")
        with self._play(number, executor, rng, place) as play:
            killed = rng.random() < 0.5 and play.strike("kill client", play.kill_client)
            if killed:
                play.end({-9: "", 0: ""})
            play.settle()
            if not killed or not ledger_of(place).finished:
                play.finish()
                play.settle()
            file, blocks = HARMS[kind](place.path, rng)
            play.excuse(blocks)
            play.result.blows.append(f"{kind} of {sum(blocks.values())} blocks")
            if kind not in SEEN_BY_SIZE or rng.random() < 0.5:
                _must_be_seen(place, file)
        return play.result

    def close(self) -> None:
        """End the clusters and the object store."""
        self._stack.close()

    def _chance(self, number: int) -> tuple[Random, str]:
        return Random(f"{self.seed}:{number}"), self.executors[number % len(self.executors)]

    @contextmanager
    def _play(
        self,
        number: int,
        executor: str,
        rng: Random,
        place: Place,
        *,
        cluster: Cluster | None = None,
        env: dict[str, str] | None = None,
    ) -> Iterator[Play]:
        """A round; when its body is over the command is repeated until it exits 0, and what is left is judged."""
        result = Result(number, executor, durable=rng.random() < 0.5)
        if executor == "cluster" and cluster is None:
            if self._cluster is None:
                self._cluster = Cluster(self.folder / "cluster")
                self._stack.callback(self._cluster.close)
            cluster = self._cluster
        begin = time.monotonic()
        play = Play(Scene(self.stage, place, self.folder, cluster, env or {}), result, rng)
        try:
            yield play
            play.finish()
            play.judge()
        except Anomaly as anomaly:
            result.problems.append(str(anomaly))
        finally:
            if play.command is not None:
                play.command.kill_all()
            result.seconds = time.monotonic() - begin

    def _bucket(self) -> tuple[ObjectStoreServer, FaultyProxy]:
        if self._server is None or self._proxy is None:
            self._server = self._stack.enter_context(object_store(self.folder / "store"))
            self._proxy = self._stack.enter_context(faulty_proxy(self._server.endpoint, Faults()))
        return self._server, self._proxy


def _fill(disk: Path, rng: Random) -> None:
    """Leave next to nothing free."""
    spare = rng.randrange(_SPARE_BYTES)
    with (disk / "ballast").open("wb", buffering=0) as file:
        size, step = 0, 1 << 20
        while step:
            try:
                size += file.write(bytes(step))
            except OSError:
                step //= 2
        file.truncate(max(0, size - spare))


def _must_be_seen(place: Folder, file: Path) -> None:
    """``gigatile verify`` finds it, and says where."""
    code, report = verified(place, {})
    about = "torn" if file.parent.name == "ledger" else str(file)
    if code != _DAMAGED or not any(about in problem for problem in report["problems"]):
        raise Anomaly(f"verify does not see what was done to {file.name}: exit code {code}, {report['problems']}")
