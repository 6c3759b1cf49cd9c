"""Event loops are left tidy, whatever dependencies and functions do on them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import Kind
from tests.pool.server import serving

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("hygiene_script.py")
SLOW = re.compile(r"^Executing <.*> took [\d.]+ seconds\n", re.MULTILINE)  # the machine may be busy
TIMEOUT = 80.0


@pytest.mark.timeout(90)
def test_nothing_is_left_on_a_loop(every_backend: Kind, ledger: ModuleType) -> None:
    """No pending task, unclosed transport, loop or generator, and no use of another loop, in any process.

    Not when a pool is shut down, nor when a worker is recycled, an item is cancelled, or is over its time. What a
    finaliser or a loop's exception handler has to say comes on standard error, of workers too; nothing does.
    """
    environment = {**os.environ, "PYTHONASYNCIODEBUG": "1", "PYTHONPATH": str(ROOT)}
    with serving() as address:
        arguments = [str(SCRIPT), every_backend.name, every_backend.start_method or "-", address]
        command = [sys.executable, "-W", "error", *arguments]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert (result.stdout, SLOW.sub("", result.stderr), result.returncode) == ("done\n", "", 0)
