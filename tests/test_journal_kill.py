"""SIGKILL at random moments: no corrupt file, no event lost that was committed.

A few kills here; `SERSTREAM_KILLS=200 sh scripts/test tests/test_journal_kill.py` is the long form.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from journals import seqs

KILLS = int(os.environ.get("SERSTREAM_KILLS", "5"))
WRITER = """
import sys
from pathlib import Path
from journals import Kept

kept = Kept(Path(sys.argv[1]), max_mb=4.0)
told = 0
while True:
    for _ in range(7):
        kept.emotion()
    if (written := kept.journal.status()["written"]) > told:
        told = written
        print(kept.session, written, flush=True)
"""


@pytest.mark.timeout(180 + 10 * KILLS)
def test_a_writer_that_is_killed_leaves_a_whole_file_with_all_that_was_committed(tmp_path):
    path = tmp_path / "own" / "events.db"
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    rng = random.Random(17)
    kept = 0
    for _ in range(KILLS):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True, env=env
        ) as writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline() for _ in range(rng.randrange(1, 4))]
            try:
                writer.wait(rng.random() * 0.2)  # a random moment
            except subprocess.TimeoutExpired:
                writer.kill()
            lines += [line for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        session, committed = lines[-1].split()
        found = seqs(path)[session]
        assert found == list(range(found[0], found[-1] + 1)), "no hole"
        assert found[-1] >= int(committed), "nothing committed is lost"
        kept += len(found)
        assert path.stat().st_size <= 4_000_000
    assert kept > KILLS
    assert [p.name for p in path.parent.glob("*.damaged")] == []
