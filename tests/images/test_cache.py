"""The decoded-chunk cache: bounded, one decode at a time, and its evictions by next use."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gigatile.engine.schedule import ReadSchedule
from gigatile.errors import BlockError
from gigatile.images.cache import NEVER, UnitCache
from gigatile.images.image import Image
from gigatile.testing.sources import CountingSource, UnitSource, noise
from gigatile.tiling.border import Border
from gigatile.tiling.region import Region
from gigatile.tiling.tiling import Blocks, Tiling

UNIT_BYTES = 100


class Decoder:
    """Makes units and counts them."""

    def __init__(self, nbytes=UNIT_BYTES):
        self.nbytes, self.count = nbytes, Counter()
        self.lock = threading.Lock()

    def __call__(self, key):
        with self.lock:
            self.count[key] += 1
        return np.full(self.nbytes, key[2] % 251, np.uint8)


class Order:
    """A schedule over a known sequence of reads."""

    def __init__(self, sequence):
        self.sequence, self.at = sequence, 0

    def next_use(self, key):
        later = [i for i in range(self.at + 1, len(self.sequence)) if self.sequence[i] == key]
        return later[0] if later else NEVER


def replay(sequence, units, *, known):
    """Decodes that a cache of so many units needs for a sequence of reads."""
    decode, order = Decoder(), Order(sequence)
    cache = UnitCache(units * UNIT_BYTES, order if known else None)
    for order.at, key in enumerate(sequence):
        assert (cache.get(key, decode) == key[2] % 251).all()
        assert cache.held_bytes <= cache.budget_bytes
    return sum(decode.count.values())


def keys(numbers):
    return [(0, 0, number) for number in numbers]


sequences = st.lists(st.integers(0, 12), min_size=1, max_size=60).map(keys)


@given(sequences, st.booleans())
def test_with_room_for_all_each_unit_is_decoded_once(sequence, known):
    distinct = len(set(sequence))
    # Without a schedule each unit is kept; with one, those that come again.
    assert replay(sequence, distinct, known=known) == distinct


@given(sequences, st.integers(0, 6), st.booleans())
def test_what_is_held_stays_within_the_budget_and_is_what_is_accounted_for(sequence, units, known):
    decode, order = Decoder(), Order(sequence)
    cache = UnitCache(units * UNIT_BYTES + 7, order if known else None)
    for order.at, key in enumerate(sequence):
        cache.get(key, decode)
        assert cache.held_bytes == sum(unit.nbytes for unit in cache._units.values())
        assert cache.held_bytes <= cache.budget_bytes


def test_by_next_use_a_cyclic_scan_keeps_what_by_recency_is_always_just_lost():
    scan = keys(list(range(10)) * 5)
    by_recency = replay(scan, 6, known=False)
    by_next_use = replay(scan, 6, known=True)
    assert by_recency == 50
    assert by_next_use < 35


@settings(max_examples=60)
@given(sequences, st.integers(1, 6))
def test_nothing_can_beat_the_order_by_much_and_recency_does_not(sequence, units):
    """With a tenth of slack at eviction the cache is Belady's with one unit less, at worst."""
    assert replay(sequence, units, known=True) <= belady(sequence, max(units - 1, 0))


def belady(sequence, units):
    """Decodes of the optimal cache that need not keep what it decodes."""
    held, decoded = set(), 0
    for at, key in enumerate(sequence):
        if key in held:
            continue
        decoded += 1
        held.add(key)
        if len(held) > units:
            held.remove(
                max(held, key=lambda k: next((i for i in range(at + 1, len(sequence)) if sequence[i] == k), 10**9))
            )
    return decoded


def test_a_unit_that_will_not_be_read_again_is_not_kept():
    sequence = keys([1, 2])
    cache = UnitCache(10 * UNIT_BYTES, Order(sequence))
    cache.get(sequence[0], Decoder())
    assert cache.held_bytes == 0


def test_a_unit_larger_than_the_budget_is_handed_out_and_not_kept():
    decode = Decoder(nbytes=500)
    cache = UnitCache(499)
    assert cache.get((0, 0, 3), decode).nbytes == 500
    assert cache.held_bytes == 0
    cache.get((0, 0, 3), decode)
    assert decode.count[0, 0, 3] == 2


def test_a_unit_larger_than_the_budget_does_not_drive_out_the_others():
    cache, decode = UnitCache(499), Decoder()
    cache.get((0, 0, 1), decode)
    cache.get((0, 0, 2), Decoder(nbytes=500))
    cache.get((0, 0, 1), decode)
    assert decode.count[0, 0, 1] == 1


def test_a_budget_of_nothing_still_reads():
    assert replay(keys([1, 1, 2, 1]), 0, known=False) == 4


def test_threads_that_want_the_same_unit_share_one_decode():
    everyone_is_here = threading.Barrier(8)
    let_go, count = threading.Event(), Counter()

    def decode(key):
        count[key] += 1
        assert let_go.wait(10)
        return np.full(UNIT_BYTES, 7, np.uint8)

    # A budget of nothing: what they share is the decode in flight, not the cache.
    cache = UnitCache(0)

    def want(_):
        everyone_is_here.wait(10)
        return cache.get((0, 0, 0), decode)

    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(want, i) for i in range(8)]
        # The seven others are past the barrier and find the decode in flight, or come within this time.
        threading.Event().wait(0.3)
        let_go.set()
        units = [future.result(10) for future in waiting]
    assert count[0, 0, 0] == 1
    assert all(unit is units[0] for unit in units)


def test_an_error_reaches_every_waiting_thread_and_the_next_call_tries_again():
    let_go, calls = threading.Event(), []

    def decode(key):
        calls.append(key)
        if len(calls) > 1:
            return np.zeros(UNIT_BYTES, np.uint8)
        assert let_go.wait(10)
        raise BlockError("unit", found="broken bytes")

    cache = UnitCache(1000)
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(cache.get, (0, 0, 0), decode) for _ in range(4)]
        threading.Event().wait(0.3)
        let_go.set()
        errors = [future.exception(10) for future in waiting]
    assert [type(error) for error in errors] == [BlockError] * 4
    assert len(calls) == 1
    assert cache.get((0, 0, 0), decode).nbytes == UNIT_BYTES
    assert len(calls) == 2


def test_many_threads_over_many_units_stay_within_the_budget():
    decode, cache, over = Decoder(), UnitCache(5 * UNIT_BYTES), []

    def work(seed):
        rng = np.random.default_rng(seed)
        for number in rng.integers(0, 20, 300):
            unit = cache.get((0, 0, int(number)), decode)
            if unit[0] != number % 251 or cache.held_bytes > cache.budget_bytes + UNIT_BYTES:
                over.append(number)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert over == []
    assert cache.held_bytes <= cache.budget_bytes


class TestOrderOfBlocks:
    """What the engine tells the cache, against the reads that really follow."""

    SHAPE, UNIT = (90, 110), (10, 10)

    def decoded(self, cache_units, *, known):
        source = CountingSource(UnitSource(noise((1, *self.SHAPE)), self.UNIT))
        image = Image(source)
        grid = Tiling(tile=24, overlap=8, margin=0, blend="hann").grid(self.SHAPE)
        blocks = Blocks(self.SHAPE, (32, 32))
        schedule = ReadSchedule(grid, blocks, image.levels[0], np.ones(blocks.grid, bool))
        image.use_cache(cache_units * 100, schedule if known else None)
        for row, col in blocks:
            rows, cols = grid.covering(blocks.region(row, col))
            for band in rows:
                window = grid.band(band, cols)
                schedule.reading(row, col, window.y0)
                image.read(window, border=Border("reflect"))
                assert image.cache.held_bytes <= cache_units * 100
            schedule.finished(row, col)
        return sum(source.decoded.values())

    def test_with_room_for_one_row_of_blocks_each_unit_is_decoded_once(self):
        assert self.decoded(80, known=True) == 99
        assert self.decoded(80, known=False) > 99

    @pytest.mark.parametrize("room", [24, 36, 48, 60, 72])
    def test_the_known_order_saves_decodes_wherever_room_is_short(self, room):
        assert self.decoded(room, known=True) < 0.95 * self.decoded(room, known=False)

    def test_blocks_that_are_done_do_not_hold_units(self):
        grid = Tiling(tile=24, overlap=8, margin=0, blend="hann").grid(self.SHAPE)
        blocks = Blocks(self.SHAPE, (32, 32))
        level = Image(UnitSource(noise((1, *self.SHAPE)), self.UNIT)).levels[0]
        pending = np.zeros(blocks.grid, bool)
        pending[2, 3] = True
        schedule = ReadSchedule(grid, blocks, level, pending)
        assert schedule.next_use((0, 0, 0)) == NEVER
        assert schedule.next_use((0, 8, 10)) < NEVER


@pytest.mark.parametrize("channels", [None, [1]])
def test_a_selection_of_an_image_shares_its_cache(channels):
    source = CountingSource(UnitSource(noise((2, 20, 20)), (10, 10)))
    image = Image(source)
    other = image.select(channels)
    image.read(Region(0, 0, 20, 20))
    other.read(Region(0, 0, 20, 20))
    assert sum(source.decoded.values()) == 4
