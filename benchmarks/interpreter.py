"""Runs code in interpreters that are fresh: what is measured there does not depend on what ran here before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import poolinject

SCRIPTS = Path(__file__).parent / "scripts"
TIMEOUT = 300.0


def run_script(name: str, *arguments: str) -> Any:
    """Run a script of ``scripts/`` and give what it printed, which is JSON.

    Raises:
        subprocess.CalledProcessError: If it fails; a note tells what it printed last.
        subprocess.TimeoutExpired: If it hangs.
    """
    return _run([str(SCRIPTS / name), *arguments])


def run_code(code: str) -> Any:
    """Run source text as ``python -c`` does, and give what it printed, which is JSON; raises as ``run_script`` does."""
    return _run(["-c", code])


def _run(arguments: list[str]) -> Any:
    environment = dict(os.environ)
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # or each interpreter would compile the library again
    library = str(Path(poolinject.__file__).parents[1])  # the one that is measured here, installed or not
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [library, environment.get("PYTHONPATH")]))
    command = [sys.executable, *arguments]
    try:
        # The command is this interpreter with scripts of this package.
        done = subprocess.run(  # noqa: S603
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        error.add_note(error.stderr[-1000:])
        raise
    return json.loads(done.stdout)
