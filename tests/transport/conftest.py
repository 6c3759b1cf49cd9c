"""Other interpreters, because most of what a transport gets wrong shows only in another process."""

import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEADER = """\
import sys
from poolinject._transport.batch_reader import decode_batch
from poolinject._transport.batch_writer import encode_batch
from poolinject._transport.codec import decode, encode
from poolinject._transport.functions import load_function, pack_function
from poolinject._transport.remote_errors import pack_error, unpack_error
"""


@pytest.fixture
def run_python() -> Callable[[str, bytes], bytes]:
    """Return a function that runs a script, given its standard input, and returns its standard output."""

    def run(script: str, data: bytes) -> bytes:
        command = [sys.executable, "-c", HEADER + textwrap.dedent(script)]
        done = subprocess.run(command, input=data, capture_output=True, check=False, timeout=25, cwd=ROOT)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    return run
