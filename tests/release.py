"""Build wheel and sdist into dist/, install the wheel into a bare environment, and use it there without a network.

`make release` runs it, before a release. It needs the network to install what the wheel asks for, and then takes it
away: by `unshare` on Linux where that is permitted, otherwise by settings that send every request nowhere.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
IMAGE = "docs/images/elephant.jpg"

COMMANDS = (
    ["eclip", "--version"],
    ["eclip", "doctor"],
    ["eclip", "methods", "ls"],
    ["eclip", "explain", IMAGE, "-t", "an elephant", "-t", "a man", "-o", "out"],
    ["eclip", "explain", IMAGE, "-t", "a man", "--format", "csv,html", "-o", "gallery"],
    ["eclip", "words", IMAGE, "-t", "a man and an elephant", "--pairs", "-o", "words"],
    ["eclip", "segment", IMAGE, "-c", "elephant", "-c", "man", "-o", "segments"],
    ["python", "-c", f"import eclip; print(eclip.explain({IMAGE!r}, ['a man']).boxes('a man'))"],
)
"""What must work at once: everything with a template, an asset or a list of words among its files."""


def packaged() -> set[str]:
    """The files of the package, as the wheel must hold them."""
    files = (path for path in (ROOT / "src" / "eclip").rglob("*") if path.is_file())
    return {path.relative_to(ROOT / "src").as_posix() for path in files if "__pycache__" not in path.parts}


def build() -> Path:
    """The wheel, built from the sdist; both are in an empty dist/ afterwards."""
    shutil.rmtree(DIST, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(DIST), str(ROOT)], check=True, stdout=sys.stderr)
    (wheel,) = DIST.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    if held != packaged():
        raise SystemExit(f"the wheel and src/eclip differ in {sorted(held ^ packaged())}.")
    for path in sorted(DIST.iterdir()):
        print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")
    return wheel


def offline() -> list[str]:
    """The beginning of a command that has no network; empty if this machine does not permit it."""
    words = ["unshare", "--map-root-user", "--net"]
    allowed = shutil.which(words[0]) and subprocess.run([*words, "true"], capture_output=True).returncode == 0
    return words if allowed else []


def main() -> None:
    """Build, install and use; the first failure ends it."""
    wheel = build()
    with tempfile.TemporaryDirectory(prefix="eclip-release-") as folder:
        away, binaries = Path(folder), Path(folder) / "venv" / "bin"
        (away / IMAGE).parent.mkdir(parents=True)
        shutil.copy(ROOT / IMAGE, away / IMAGE)
        subprocess.run([sys.executable, "-m", "venv", str(away / "venv")], check=True)
        began = time.perf_counter()
        subprocess.run([str(binaries / "python"), "-m", "pip", "install", "--quiet", str(wheel)], check=True)
        print(f"installed in {time.perf_counter() - began:.0f} s")
        own = {"HOME": folder, "PATH": f"{binaries}{os.pathsep}{os.defpath}", "HF_HUB_OFFLINE": "1"}
        own |= {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
        for words in COMMANDS:
            began = time.perf_counter()
            command = [*offline(), str(binaries / words[0]), *words[1:]]
            done = subprocess.run(command, cwd=away, env=own, capture_output=True, text=True)
            print(f"{time.perf_counter() - began:5.1f} s  {' '.join(words)}")
            if done.returncode:
                raise SystemExit(f"{done.stdout}{done.stderr}it ended with {done.returncode}.")


if __name__ == "__main__":
    main()
