"""What every script of the workflow does around its one library call."""

from __future__ import annotations

import logging
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from laglens.errors import LaglensError
from laglens.provenance import package_versions
from laglens.store.records import digests_of_inputs, forget, keep

# The bytes of one artifact or another depend on these.
PACKAGES = ("laglens", "matplotlib", "numpy", "pandas", "scipy", "statsmodels", "timm", "torch", "xarray", "zarr")
logger = logging.getLogger("laglens")


@contextmanager
def job() -> Iterator[Any]:
    """Give the job's `snakemake` object, keep its log, and turn a `LaglensError` into one line and exit code 1.

    Inputs that are not what their rules made are refused, and what made the outputs is recorded beside them. Any other
    exception leaves its traceback in the log and on stderr.

    Raises
    ------
    LaglensError
        The script was started without Snakemake.
    """
    snakemake = getattr(sys.modules["__main__"], "snakemake", None)
    if snakemake is None:
        raise LaglensError("this script is a job of the workflow; run it with snakemake")
    _keep_log(str(snakemake.log))
    _limit_torch(snakemake.threads)
    try:
        inputs = digests_of_inputs(map(str, snakemake.input))
        forget(map(str, snakemake.output))
        yield snakemake
        keep(map(str, snakemake.output), _made_by(snakemake) | {"inputs": inputs})
    except LaglensError as error:
        message = " ".join(f"{snakemake.rule}: {error}".split())
        logger.error(message)
        print(message, file=sys.stderr)
        sys.exit(1)
    except BaseException:
        logger.exception("%s failed", snakemake.rule)
        raise


def _made_by(snakemake: Any) -> dict[str, Any]:
    versions = {"python": platform.python_version(), **package_versions(PACKAGES)}
    return {"rule": snakemake.rule, **dict(snakemake.params.items()), "versions": versions}


def _keep_log(path: str) -> None:
    logging.basicConfig(
        filename=path,
        filemode="w",
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
    logging.captureWarnings(True)


def _limit_torch(threads: int) -> None:
    """Scripts that do not import torch must not pay for it here."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)
