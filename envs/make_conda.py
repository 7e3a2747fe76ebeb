"""Write envs/laglens.yaml, the conda form of envs/lock.txt; every rule of the workflow names it."""

from __future__ import annotations

from pathlib import Path

ENVS = Path(__file__).parent
PYTHON = "3.11"
HEADER = "# Made from lock.txt by `make lock`. Change requirements.in, not this.\n"


def pins(lock: str) -> list[str]:
    """Lines ``name==version`` of a lock."""
    lines = (line.partition("#")[0].strip() for line in lock.splitlines())
    return [line for line in lines if line]


def conda(lock: str) -> str:
    """Give the conda environment as text: Python and pip from conda, every package by its pin through pip.

    One source of packages keeps the two environments equal: the same files are installed either way.
    """
    listed = "".join(f"      - {pin}\n" for pin in pins(lock))
    return (
        f"{HEADER}name: laglens\nchannels:\n  - conda-forge\ndependencies:\n"
        f"  - python={PYTHON}\n  - pip\n  - pip:\n{listed}"
    )


if __name__ == "__main__":
    lock = (ENVS / "lock.txt").read_text("utf-8")
    (ENVS / "laglens.yaml").write_text(conda(lock), "utf-8")
