import subprocess
import sys
from pathlib import Path

import pytest
from support.store import make_record

from llmobs.domain.record import Record
from llmobs.store import spool as spool_module
from llmobs.store.backlog import Backlog
from llmobs.store.database import RowRefused, StoreUnavailable
from llmobs.store.spool import REJECTED, Spool, SpoolFull, as_frames

BIG = 1 << 24


class Table:
    """A stand-in for the log: takes records once, and fails as told."""

    def __init__(self) -> None:
        self.rows: dict[str, Record] = {}
        self.refused: set[str] = set()
        self.offers = 0
        self.away_after = 1 << 30

    async def write(self, records: list[Record]) -> None:
        self.offers += 1
        if self.offers > self.away_after:
            raise StoreUnavailable("away")
        if self.refused & {record.request_id for record in records}:
            raise RowRefused("bad")
        for record in records:
            self.rows.setdefault(record.request_id, record)


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def _left_by_a_dead_process(folder: Path, content: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "dead.spool"
    path.write_bytes(content)
    return path


async def test_a_drain_gives_every_field_in_order_and_empties_the_file(tmp_path: Path) -> None:
    table = Table()
    backlog = Backlog(Spool(tmp_path, BIG), table.write)
    given = [make_record(context={"n": n, "nul": "\0", "big": 2**70}) for n in range(1200)]
    for start in range(0, 1200, 100):
        await backlog.append(given[start : start + 100])
    assert await backlog.drain() == 1200
    assert list(table.rows.values()) == given
    assert backlog.size == 0
    assert await backlog.drain() == 0
    await backlog.close()
    assert _names(tmp_path) == []


async def test_a_drain_cut_short_is_done_again_from_the_start(tmp_path: Path) -> None:
    table = Table()
    backlog = Backlog(Spool(tmp_path, BIG), table.write)
    given = [make_record() for _ in range(1200)]
    await backlog.append(given)
    table.away_after = 2
    with pytest.raises(StoreUnavailable):
        await backlog.drain()
    assert len(table.rows) == 1000
    await backlog.append([late := make_record()])
    table.away_after = 1 << 30
    await backlog.drain()
    assert list(table.rows.values()) == [*given, late]
    await backlog.close()


async def test_what_is_added_during_a_drain_is_drained_too(tmp_path: Path) -> None:
    table = Table()
    late = [make_record() for _ in range(3)]

    async def write(records: list[Record]) -> None:
        await table.write(records)
        if late:
            await backlog.append([late.pop()])

    backlog = Backlog(Spool(tmp_path, BIG), write)
    await backlog.append([make_record()])
    assert await backlog.drain() == 4
    assert backlog.size == 0
    assert len(table.rows) == 4
    await backlog.close()


@pytest.mark.parametrize("cut", [1, 7, 13, 40])
async def test_a_torn_tail_is_passed_over(tmp_path: Path, cut: int) -> None:
    first, second = make_record(), make_record()
    path = _left_by_a_dead_process(tmp_path, as_frames([first]) + as_frames([second])[:cut])
    table = Table()
    assert await Backlog(Spool(tmp_path, BIG), table.write).drain() == 1
    assert list(table.rows.values()) == [first]
    assert not path.exists()


@pytest.mark.parametrize("at", [0, 3, 5, 9, 13, 100])
async def test_a_spoilt_middle_takes_only_itself_and_is_kept_aside(tmp_path: Path, at: int) -> None:
    first, second, third = make_record(), make_record(), make_record()
    spoilt = bytearray(as_frames([second]))
    spoilt[at] ^= 0xFF
    _left_by_a_dead_process(tmp_path, as_frames([first]) + spoilt + as_frames([third]))
    table = Table()
    assert await Backlog(Spool(tmp_path, BIG), table.write).drain() == 2
    assert list(table.rows.values()) == [first, third]
    assert (tmp_path / f"dead{REJECTED}").read_bytes() == spoilt


async def test_a_marker_across_two_reads_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmobs.store.spool._READ_BYTES", 16)
    for junk in range(1, 40):
        record = make_record()
        _left_by_a_dead_process(tmp_path, b"x" * junk + as_frames([record]))
        table = Table()
        assert await Backlog(Spool(tmp_path, BIG), table.write).drain() == 1
        assert list(table.rows.values()) == [record]


async def test_a_refused_record_is_kept_aside_and_holds_up_nobody(tmp_path: Path) -> None:
    table = Table()
    given = [make_record() for _ in range(9)]
    table.refused = {given[4].request_id}
    backlog = Backlog(Spool(tmp_path, BIG), table.write)
    await backlog.append(given)
    await backlog.drain()
    assert list(table.rows.values()) == given[:4] + given[5:]
    assert backlog.size == 0
    [name] = [name for name in _names(tmp_path) if name.endswith(REJECTED)]
    assert (tmp_path / name).read_bytes() == as_frames([given[4]])
    await backlog.close()


async def test_an_orphan_goes_to_one_and_a_living_process_keeps_its_own(tmp_path: Path) -> None:
    living = Spool(tmp_path, BIG)
    living.append([make_record()])
    mine = Spool(tmp_path, BIG)
    assert list(mine.orphans()) == []
    _left_by_a_dead_process(tmp_path, b"")
    with_orphan = mine.orphans()
    assert next(with_orphan).path.name == "dead.spool"
    assert list(living.orphans()) == []
    with_orphan.close()
    living.close()
    assert len(list(mine.orphans())) == 2


def test_the_lock_of_a_dead_process_is_free(tmp_path: Path) -> None:
    child = (
        "import sys, os; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path; from support.store import make_record; from llmobs.store.spool import Spool\n"
        "Spool(Path(sys.argv[2]), 1 << 20).append([make_record()]); os._exit(9)"
    )
    tests = str(Path(__file__).parents[2])
    assert subprocess.run([sys.executable, "-c", child, tests, str(tmp_path)]).returncode == 9
    assert len(list(Spool(tmp_path, BIG).orphans())) == 1


@pytest.mark.parametrize("step", ["_locked", "_is_still"])
def test_a_new_file_that_another_process_took_for_an_orphan_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    answers = iter([False])
    real = getattr(spool_module, step)
    monkeypatch.setattr(spool_module, step, lambda *args: next(answers, None) is None and real(*args))
    spool = Spool(tmp_path, BIG)
    spool.append([make_record()])
    assert sorted(path.stat().st_size > 0 for path in tmp_path.iterdir()) == [False, True]
    monkeypatch.undo()
    assert [orphan.size for orphan in Spool(tmp_path, BIG).orphans()] == [0]
    spool.close()


def test_a_full_spool_refuses_whole_batches(tmp_path: Path) -> None:
    record = make_record()
    spool = Spool(tmp_path, 3 * len(as_frames([record])))
    spool.append([record])
    with pytest.raises(SpoolFull):
        spool.append([record] * 3)
    assert spool.size == len(as_frames([record]))
    spool.append([record] * 2)
    spool.close()


def test_a_disk_that_refuses_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, BIG)
    spool.append([make_record()])
    before = spool.size

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        with pytest.raises(SpoolFull):
            spool.append([make_record()])
    assert spool.size == before
    [path] = tmp_path.iterdir()
    assert path.stat().st_size == before
    spool.close()


def test_a_spool_is_for_its_owner_only(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "new" / "folder", BIG)
    spool.append([make_record()])
    [path] = (tmp_path / "new" / "folder").iterdir()
    assert path.stat().st_mode & 0o077 == 0
    spool.close()
