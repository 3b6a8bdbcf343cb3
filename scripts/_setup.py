"""Make the checkout's virtual environment, once, and run things in it; used by the scripts beside it.

Standard library only, and nothing that Python 3.6 cannot read: an old Python must get far enough to say
that it is too old.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
LEAST = (3, 11)
NAME = Path(sys.argv[0]).name


def say(text):
    """One line on what happens, at once, even where the output is a pipe."""
    sys.stdout.write(f"{NAME}: {text}\n")
    sys.stdout.flush()


def stop(text):
    """End with a reason."""
    sys.stderr.write(f"{NAME}: {text}\n")
    raise SystemExit(2)


def ensure_python():
    """Go on under a Python that is new enough: this one, or another on the PATH."""
    if sys.version_info >= LEAST:
        return
    for minor in range(14, LEAST[1] - 1, -1):
        found = shutil.which(f"python3.{minor}")
        if found:
            os.execv(found, [found, *sys.argv])
    stop(
        f"needs Python {LEAST[0]}.{LEAST[1]} or newer; this is {sys.version.split()[0]} and no newer one is "
        "on the PATH. Install one (python.org, a package manager, 'uv python install') and run this again."
    )


def ensure_venv(extra):
    """The environment with gigatile and the dependencies of `extra`; quick, and offline, when it is there.

    A stamp holds the digest of pyproject.toml: whoever changes the dependencies gets them at the next call.
    """
    ensure_python()
    python = BIN / "python"
    digest = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    # The test extra contains the demo's, so a tested checkout shows the demo without another download.
    if python.exists() and any(stamp_of(name) == digest for name in (extra, "test")):
        return
    if not python.exists():
        say(f"making a virtual environment in {VENV}")
        call(
            [sys.executable, "-m", "venv", str(VENV)],
            "This Python cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv.",
        )
    say(f"installing gigatile[{extra}] into it; the first time this downloads a few hundred MB")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    call(
        [*pip, "--editable", f"{ROOT}[{extra}]"],
        "The packages could not be installed; pip says why above. It needs network only this once.",
    )
    stamp_file(extra).write_text(digest)


def stamp_file(extra):
    """Where the digest of the pyproject.toml that `extra` was installed from is noted."""
    return VENV / f"gigatile-{extra}.stamp"


def stamp_of(extra):
    """What the stamp says; empty if that extra was never installed to the end."""
    file = stamp_file(extra)
    return file.read_text() if file.exists() else ""


def call(command, advice):
    """Run a step of the set-up; end with advice if it fails."""
    if subprocess.call(command) != 0:
        stop(f"failed: {' '.join(command)}\n{advice}")


def step(title, command):
    """Say what is done, do it in the checkout with the environment's programs; returns the exit code."""
    say(title)
    return subprocess.call([str(BIN / command[0]), *command[1:]], cwd=str(ROOT))
