"""Snakemake whose jobs are forks of its own process, which has imported what they import: a third of the time.

    python forks.py KEPT [argument of snakemake ...]     in the folder of a workflow, with its src first in PYTHONPATH

The job of every script that ran last for a rule stays in the folder KEPT as RULE.py: a script that runs by itself.
"""

import ast
import os
import pickle
import runpy
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

# Modules that jobs import by name, of which some bring a great deal with them.
NAMED = ("encoder", "encoder_decoder", "factory", "patch")


def warm(scripts: Path) -> None:
    """Import what any of the scripts imports, without running them."""
    for name in NAMED:
        __import__(f"laglens.models.{name}")
    for script in scripts.glob("*.py"):
        for node in ast.parse(script.read_text()).body:
            if isinstance(node, ast.ImportFrom):
                __import__(str(node.module))


def outputs(job: Path) -> list[Path]:
    """What a kept job writes: told by the object that Snakemake put into its first lines."""
    nodes = ast.walk(ast.parse(job.read_text()))
    pickled = next(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, bytes))
    return [Path(path) for path in pickle.loads(pickled).output]


def fork(job: Path, before: Callable[[], object] = lambda: None) -> int:
    """Run a job in a fork of this process, and `before` it something else; the id of the fork."""
    process = os.fork()
    if process == 0:
        try:
            before()
            runpy.run_path(str(job), run_name="__main__")
        except SystemExit as error:
            os._exit(error.code if isinstance(error.code, int) else 1)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(0)
    return process


def ended(process: int) -> int:
    """Wait for a fork; its exit code, below zero for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


class Server:
    """A process of one thread that forks a job when asked: that of one with more may inherit locked locks."""

    def __init__(self) -> None:
        (read_job, self.jobs), (self.answers, write_answer) = os.pipe(), os.pipe()
        if os.fork():
            os.close(read_job)
            os.close(write_answer)
            self.lines = os.fdopen(self.answers)
            return
        os.close(self.jobs)
        for line in os.fdopen(read_job):
            process = fork(Path(line.rstrip("\n")))
            os.write(write_answer, f"{process}\n".encode())
            os.write(write_answer, f"{ended(process)}\n".encode())
        os._exit(0)

    def start(self, job: Path) -> int:
        """Start a job; the id of its process."""
        os.write(self.jobs, f"{job}\n".encode())
        return int(self.lines.readline())

    def ended(self) -> int:
        """Exit code of the job that was started."""
        return int(self.lines.readline())


def main(kept: Path, arguments: list[str]) -> None:
    from snakemake.benchmark import benchmarked
    from snakemake.cli import main as snakemake
    from snakemake.script import PythonScript

    warm(Path("scripts"))
    server, one_at_a_time = Server(), threading.Lock()

    def execute(self: PythonScript, script: str, edit: bool = False) -> None:
        shutil.copy(script, kept / Path(script).name.partition(".")[2])
        with one_at_a_time, benchmarked(server.start(Path(script)), self.bench_record):
            code = server.ended()
        if code:
            raise subprocess.CalledProcessError(code, script)

    PythonScript.execute_script = execute
    snakemake(["--cores", "1", *arguments])


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    main(folder, sys.argv[2:])
