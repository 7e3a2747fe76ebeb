"""Resolve envs/requirements.in afresh and write every version to envs/lock.txt."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ENVS = Path(__file__).parent
HEADER = "# The whole environment, made by `make lock` with Python {version}. Change requirements.in, not this.\n"


def resolve(requirements: Path) -> dict[str, str]:
    """Versions that pip would install into an empty environment, by package."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    report = subprocess.run([*command, "-r", requirements], check=True, capture_output=True, text=True).stdout
    return {item["metadata"]["name"]: item["metadata"]["version"] for item in json.loads(report)["install"]}


def lock(versions: dict[str, str]) -> str:
    """Give the pins as text: sorted, without build labels such as ``+cpu``, and without addresses."""
    lines = (f"{name}=={version.split('+')[0]}\n" for name, version in sorted(versions.items(), key=_by_name))
    return HEADER.format(version=f"{sys.version_info.major}.{sys.version_info.minor}") + "".join(lines)


def _by_name(pin: tuple[str, str]) -> str:
    return pin[0].lower()


if __name__ == "__main__":
    (ENVS / "lock.txt").write_text(lock(resolve(ENVS / "requirements.in")), "utf-8")
