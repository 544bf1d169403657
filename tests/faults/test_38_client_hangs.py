"""Case 38: a client hangs for ever: the round ends at its deadline, the hung worker is reclaimed, the next round runs.

With real processes: ``test_52_kill_and_restart.py``.
"""

import subprocess
import sys

from fedhello.network.supervisor import _why, known_errors
from fedhello.network.worker import HUNG

HANGS = """
import time
from fedhello.network.worker import Worker
with Worker(prepare=None)._watch(0.5):
    time.sleep(60)
"""


def test_a_worker_whose_training_hangs_is_ended_by_its_own_watch():
    ended = subprocess.run([sys.executable, "-c", HANGS], timeout=50, check=False)
    assert ended.returncode == HUNG


def test_a_hung_worker_is_started_anew_and_one_whose_data_are_wrong_is_not():
    assert HUNG not in known_errors()
    assert {2, 3, 4, 10} <= known_errors().keys()
    assert 1 not in known_errors()
    assert "longer than the server waits" in _why(HUNG)
    assert _why(-9) == "by signal SIGKILL"
