"""A full disk, wherever it strikes, and files that are no longer what was written."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from monitor.demo.stop import Stop
from monitor.errors import StoreError
from tests.faults import traffic
from tests.faults.daemon import Daemon, daemon_on
from tests.faults.stored import assert_stored_once, ids
from tests.faults.traffic import mixed, pumps
from tests.monitor.support import World, prediction

pytestmark = pytest.mark.faults

MIB = 2**20
BACK_SECONDS = 60.0


class Disk:
    """A folder whose space can run out: a small tmpfs where mounting is allowed, else a limit on the size of any file."""

    def __init__(self, folder: Path, size: int) -> None:
        self.path = folder
        folder.mkdir()
        options = ["-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
        mounted = subprocess.run(["mount", *options], capture_output=True, text=True) if shutil.which("mount") else None
        self._tmpfs = mounted is not None and mounted.returncode == 0
        print("disk: a tmpfs of", size // MIB, "MiB" if self._tmpfs else "MiB is not allowed here; RLIMIT_FSIZE instead")
        self._ballast = folder / "ballast"

    def fill(self, daemon: Daemon, left: int) -> None:
        """Leave room for `left` more bytes."""
        if self._tmpfs:
            with self._ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):  # the daemon takes some meanwhile
                while (room := shutil.disk_usage(self.path).free - left) > 0:
                    file.write(bytes(min(room, MIB)))
        else:
            largest = max(p.stat().st_size for p in daemon.store.iterdir() if p.is_file())
            hard = resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (largest + left, hard))

    def free(self, daemon: Daemon) -> None:
        if self._tmpfs:
            self._ballast.unlink()
        else:
            hard = resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE)[1]
            resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (hard, hard))

    @contextlib.contextmanager
    def read_only(self, daemon: Daemon) -> Iterator[None]:
        if not self._tmpfs and os.geteuid() == 0:
            pytest.skip("root may write anywhere, and nothing can be mounted here")
        for mode in ("ro", "rw"):
            if self._tmpfs:
                subprocess.run(["mount", "-o", f"remount,{mode}", str(self.path)], check=True)
            else:
                for path in (daemon.store, *daemon.store.rglob("*")):
                    path.chmod((0o555 if path.is_dir() else 0o444) if mode == "ro" else 0o755)
            if mode == "ro":
                yield

    def close(self) -> None:
        if self._tmpfs:
            subprocess.run(["umount", "--lazy", str(self.path)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    one = Disk(tmp_path / "disk", 64 * MIB)
    yield one
    one.close()


NEVER = {"seal_seconds": "1h"}
STRIKES: dict[str, tuple[dict[str, Any], int, str, dict[str, str]]] = {
    # Room for a while, none for what is folded in: the commit stands, and the engine is dead until it is reopened.
    "in a checkpoint": ({**NEVER, "checkpoint_bytes": 2 * MIB}, 3 * MIB // 2, "store_commit_failures", {"reason": "fatal"}),
    "in the log": (NEVER, MIB // 4, "store_commit_failures", {"reason": "io"}),
    "while sealing": ({"seal_seconds": "2s"}, 0, "seal_failures", {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("where", STRIKES)
def test_a_full_disk_is_told_loses_nothing_and_is_over_once_there_is_room(tmp_path: Path, disk: Disk, where: str) -> None:
    store, left, counter, labels = STRIKES[where]
    stop = Stop()
    text = "x" * 2_000
    settings = {"path": str(disk.path / "store"), "min_free_bytes": 0, **store}  # and the daemon's log elsewhere
    with daemon_on(tmp_path, stop, store=settings) as daemon:
        daemon.run()
        pid = daemon.pid
        with pumps(daemon.push, [mixed(1, text=text), mixed(2, first=10**6, text=text)], stop) as clients:
            stop.wait_for("some records", lambda: sum(c.batches for c in clients) > 60, BACK_SECONDS)
            disk.fill(daemon, left)
            failures = f"modelwatch_{counter}_total"
            stop.wait_for(f"a failure {where}", lambda: daemon.sample(failures, **labels), BACK_SECONDS)
            stop.wait_for("to be told that it is not ready", daemon.not_ready, BACK_SECONDS)
            stop.wait_for("a refusal", lambda: any(c.client.resent for c in clients), BACK_SECONDS)
            disk.free(daemon)
            seen = [client.batches for client in clients]
            for client, before in zip(clients, seen, strict=True):
                stop.wait_for("more records", lambda c=client, b=before: c.batches > b + 5, BACK_SECONDS)  # type: ignore[misc]
            stop.wait_for("it to be ready", lambda: daemon.not_ready() is None, BACK_SECONDS)
            for client in clients:
                client.finish()
            assert daemon.process.running, "it recovers without a restart"
            assert daemon.pid == pid
            daemon.stop()
            assert ids(daemon.store) == traffic.acknowledged(clients)
            assert_stored_once(daemon.store)


def test_a_folder_that_cannot_be_written_to_is_named_and_what_is_in_it_stays(tmp_path: Path, disk: Disk) -> None:
    stop = Stop()
    with daemon_on(tmp_path, stop, store={"path": str(disk.path / "store"), "min_free_bytes": 0}) as daemon:
        daemon.run()
        daemon.stop()
        with disk.read_only(daemon):
            daemon.start()
            assert daemon.dies("it cannot write") == 1
        assert "hot.duckdb: cannot be opened" in (said := daemon.log.read_text())
        assert "Check the permissions and the disk" in said
        assert "Traceback" not in said
        daemon.run()
        daemon.stop()


# --- files that are no longer what was written -----------------------------------------------------------------------


def killed(world: World, folder: Path) -> World:
    """The store as a kill would leave it now: with a log that was never folded in."""
    shutil.copytree(world.store.root, folder)
    assert (folder / "hot.duckdb.wal").stat().st_size > 10_000
    copy = World.__new__(World)
    copy.clock, copy.config = (
        world.clock,
        world.config.model_copy(update={"store": world.config.store.model_copy(update={"path": folder})}),
    )
    return copy


@pytest.fixture
def unsaved(world: World, tmp_path: Path) -> Callable[[], World]:
    """Stores, one like the other, with forty batches in the log."""
    for i in range(40):
        world.send("predictions", prediction(f"r{i}", features={"city": f"c{i}" * 100}))
    folders = (tmp_path / f"copy{n}" for n in range(100))
    return lambda: killed(world, next(folders))


def test_of_a_torn_log_only_what_was_never_acknowledged_is_lost(unsaved: Callable[[], World]) -> None:
    whole = [f"r{i}" for i in range(40)]
    kept = []
    for cut in (1, 100, 3_000):
        copy = unsaved()
        log = copy.config.store.path / "hot.duckdb.wal"
        os.truncate(log, log.stat().st_size - cut)
        copy.open()
        found = copy.ids("predictions")
        copy.close()
        assert found == whole[: len(found)], "the beginning, without a gap"
        kept.append(len(found))
    assert kept[0] == 39, "the last batch, whose commit record is torn, was never acknowledged"
    assert 30 < kept[2] < 39


def test_a_log_with_a_flipped_bit_is_refused_with_what_to_do_and_left_as_it_is(unsaved: Callable[[], World]) -> None:
    for place in (0.2, 0.5, 0.8):
        copy = unsaved()
        log = copy.config.store.path / "hot.duckdb.wal"
        content = bytearray(log.read_bytes())
        content[int(len(content) * place)] ^= 4
        log.write_bytes(content)
        with pytest.raises(StoreError, match=r"hot\.duckdb\.wal holds what was acknowledged .* move hot\.duckdb\.wal aside"):
            copy.open()
        assert log.read_bytes() == content
        log.rename(log.with_name("aside"))  # as it said
        copy.open()
        assert copy.send("predictions", prediction("new")).accepted == 1
        copy.close()


def test_a_hot_file_with_a_flipped_bit_never_gives_a_wrong_answer(world: World) -> None:
    """It is refused at the start, or else whatever reads the block fails: sealing, and by that the seal alert."""
    sent = [prediction(f"r{i}", features={"city": f"c{i}" * 300}) for i in range(2_000)]
    world.send("predictions", *sent)
    world.close()
    file = world.store.root / "hot.duckdb"
    content = file.read_bytes()
    refused = wrong = 0
    for n in range(1, 12):
        damaged = bytearray(content)
        damaged[len(content) * n // 12] ^= 4
        file.write_bytes(damaged)
        try:
            world.open()
            found = [(row["record_id"], row["f_city"]) for row in world.rows("predictions")]
            wrong += found != [(p["record_id"], p["features"]["city"]) for p in sent]
        except StoreError as exc:
            refused += "restore the folder from a backup" in str(exc)
        except duckdb.Error:
            refused += 1
        finally:
            world.close()
    file.write_bytes(content)
    world.open()
    assert wrong == 0
    assert refused > 0, "no block that anybody reads was hit"
