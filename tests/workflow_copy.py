"""A copy of the workflow with the tiny study of tests/study.yaml, to run, change and break."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

REPOSITORY = Path(__file__).parents[1]
PARTS = ("Snakefile", "rules", "scripts", "src", "profiles", "envs")
PROVENANCE_LOST = "missing provenance"


@dataclass(frozen=True)
class WorkflowCopy:
    """A folder with the workflow and a study."""

    root: Path

    @classmethod
    def create(cls, root: Path) -> "WorkflowCopy":
        """Copy the workflow, without what it has made, and add the study and its table."""
        ignored = shutil.ignore_patterns("__pycache__", "weights", "*.egg-info")
        for part in PARTS:
            source = REPOSITORY / part
            if source.is_dir():
                shutil.copytree(source, root / part, ignore=ignored)
            else:
                root.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, root / part)
        shutil.copy2(REPOSITORY / "tests" / "study.yaml", root / "config.yaml")
        rows = (f"{2 * math.sin(t / 2) + math.cos(0.61 * t):.4f}" for t in range(120))
        (root / "series.csv").write_text("\n".join(["value", *rows]) + "\n")
        return cls(root)

    def copy(self, root: Path) -> "WorkflowCopy":
        """The same with all results, records and times of change."""
        shutil.copytree(self.root, root, copy_function=shutil.copy2, symlinks=True)
        return WorkflowCopy(root)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]

    def environment(self, python_path: Path | None = None) -> dict[str, str]:
        """Clean of the tests' own paths; `python_path` comes first on the jobs' path."""
        kept = {
            key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "SNAKEMAKE", "PYTEST"))
        }
        return kept | {"PYTHONPATH": str(python_path or ""), "MPLCONFIGDIR": str(self.root.parent / "matplotlib")}

    def snakemake(
        self,
        *arguments: str,
        python_path: Path | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> subprocess.CompletedProcess[str]:
        """Run snakemake in the folder and wait; stdout holds everything it said. `environment` is more of it."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.root,
            env=self.environment(python_path) | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
            check=False,
        )

    @property
    def jobs(self) -> Path:
        """Where `in_forks` leaves one job of each rule: a script that runs in the folder by itself."""
        return self.root / "jobs"

    def in_forks(
        self,
        *arguments: str,
        before: Sequence[str] = (),
        python_path: Path | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> subprocess.CompletedProcess[str]:
        """As `snakemake`, but jobs do not import anew what they need (see forks.py); one at a time.

        `before` goes before the command, `environment` is more of it.
        """
        own = self.environment(self.root / "src")
        own["PYTHONPATH"] = os.pathsep.join([*map(str, filter(None, [python_path])), own["PYTHONPATH"]])
        return subprocess.run(
            [*before, sys.executable, str(REPOSITORY / "tests" / "forks.py"), str(self.jobs), *arguments],
            cwd=self.root,
            env=own | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
            check=False,
        )

    def job(self, rule: str) -> subprocess.CompletedProcess[str]:
        """The job of a rule that `in_forks` has kept, without Snakemake."""
        return subprocess.run(
            [sys.executable, str(self.jobs / f"{rule}.py")],
            cwd=self.root,
            env=self.environment(self.root / "src"),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def stale(self, *targets: str, **options: Any) -> dict[str, int]:
        """Jobs by rule that a dry run lists, of the study or of other targets."""
        run = self.snakemake("-n", *targets, **options)
        assert run.returncode == 0, run.stdout
        assert PROVENANCE_LOST not in run.stdout, run.stdout
        if "Nothing to be done" in run.stdout:
            return {}
        table = re.search(r"^Job stats:\n(.*?)^total", run.stdout, re.MULTILINE | re.DOTALL)
        assert table is not None, run.stdout
        counts = re.findall(r"^(\w+) +(\d+)$", table[1], re.MULTILINE)
        return {rule: int(count) for rule, count in counts if rule not in ("all", *targets)}

    def results(self) -> dict[str, bytes]:
        """Content of every result by its name; not what is recorded of them."""
        folder = self.root / "results"
        names = (str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file())
        return {name: (folder / name).read_bytes() for name in names if not name.startswith("provenance/")}

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace a text that must occur."""
        path = self.root / file
        text = path.read_text()
        assert old in text, f"{file} has no {old!r}"
        path.write_text(text.replace(old, new, 1))

    def configure(self, changes: Mapping[str, Any]) -> None:
        """Set keys of the study, given by their path: ``{"figures.gamma": 0.7}``; None deletes."""
        path = self.root / "config.yaml"
        study = yaml.safe_load(path.read_text())
        for key, value in changes.items():
            *above, last = key.split(".")
            section = study
            for name in above:
                section = section.setdefault(name, {})
            if value is None:
                del section[last]
            else:
                section[last] = json.loads(json.dumps(value))
        path.write_text(yaml.safe_dump(study, sort_keys=False))
