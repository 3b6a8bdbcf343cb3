"""The ledger and the directory in a bucket of a real server."""

import os
import secrets

import pytest

from gigatile.engine.record import BlockKey, BlockRecord
from gigatile.errors import RunRefused
from gigatile.ledger import compaction
from gigatile.ledger.attempts import Suspicion
from gigatile.ledger.compaction import compact
from gigatile.ledger.reader import LedgerReader
from gigatile.ledger.state import DONE, FAILED
from gigatile.ledger.writer import LedgerWriter
from gigatile.runs.directory import RunDirectory
from tests.object_store import object_store

GRIDS = [(3, 3)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with object_store(tmp_path_factory.mktemp("object-store")) as found:
        yield found


@pytest.fixture
def run(server, monkeypatch, tmp_path):
    for name in tuple(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    return RunDirectory.at(f"{server.make_bucket(f't-{secrets.token_hex(6)}')}/some/run")


def records(*cols):
    return [BlockRecord(BlockKey(0, 0, col), "done", 1, nbytes=5, tiles=1) for col in cols]


def test_a_bucket_holds_a_run_and_nothing_else(run):
    assert run.read() is None
    with run.locked():
        with pytest.raises(RunRefused), RunDirectory.at(run.name).locked():
            pass
        run.write({"fingerprint": "x"})
    assert run.read() == {"fingerprint": "x"}
    outside = RunDirectory.at(run.name.removesuffix("/run"))
    with pytest.raises(RunRefused, match=r"run/run.json"):
        outside.read()


def test_what_was_appended_is_read_revoked_and_compacted(run, monkeypatch):
    monkeypatch.setattr(compaction, "SEGMENTS", 5)
    writer, view = LedgerWriter(run.ledger), LedgerReader(run.ledger, GRIDS)
    attempt = writer.started([BlockKey(0, 2, 2), BlockKey(0, 0, 0)], alone=False)
    for col in range(3):
        writer.append(records(col))
    writer.append([BlockRecord(BlockKey(0, 1, 1), "failed", 1, error="no weights")])
    state = view.refresh()
    assert (state.count(DONE), state.count(FAILED), state.totals.tiles) == (3, 1, 3)
    assert state.suspects() == {BlockKey(0, 2, 2): Suspicion(1, 0)}
    writer.revoke_all(view.identities(state.failures()), "retried")
    assert view.refresh().count(FAILED) == 0
    assert compact(run.ledger) == 6
    assert len(list(run.ledger.entries())) == 1
    writer.released(attempt)
    for state in (view.refresh(), LedgerReader(run.ledger, GRIDS).scan()):
        assert (state.count(DONE), state.count(FAILED), state.totals.tiles) == (3, 0, 3)
        assert state.suspects() == {}
        assert state.dropped == 0
