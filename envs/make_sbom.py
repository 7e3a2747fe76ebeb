"""Write envs/sbom.json, a bill of materials in CycloneDX: every package of the lock, its licence, what it needs."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from importlib.metadata import metadata, requires
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ENVS = Path(__file__).parent
TROVE = "License :: "  # how a classifier of a package's metadata begins


def bill(lock: str, project: dict[str, Any], wanted: str) -> dict[str, Any]:
    """The bill, the same for the same packages: without a date, a serial number or an address.

    Parameters
    ----------
    lock
        Text of the lock; its packages have to be installed, as licences are read from their metadata.
    project
        Content of pyproject.toml.
    wanted
        Text of the requirements that the lock was resolved from.
    """
    pins = (line.split("==") for line in lock.splitlines() if "==" in line)
    versions: dict[str, str] = {canonicalize_name(name): version for name, version in pins}
    refs = {name: f"pkg:pypi/{name}@{version}" for name, version in versions.items()}
    own = {"type": "application", "bom-ref": "laglens", "name": "laglens", "version": project["project"]["version"]}
    own |= {"licenses": [{"license": {"id": project["project"]["license"]}}]}
    lines = (line.partition("#")[0].strip() for line in wanted.splitlines())
    needs: dict[str, set[str]] = {"laglens": {canonicalize_name(Requirement(line).name) for line in lines if line}}
    needs |= {refs[name]: set(_needed(name)) for name in versions}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": own},
        "components": [_component(name, versions[name], refs[name]) for name in sorted(versions)],
        "dependencies": [
            {"ref": ref, "dependsOn": sorted(refs[name] for name in names if name in refs)}
            for ref, names in needs.items()
        ],
    }


def _component(name: str, version: str, ref: str) -> dict[str, Any]:
    licences = list(_licences(metadata(name).json))
    return {"type": "library", "bom-ref": ref, "name": name, "version": version, "purl": ref, "licenses": licences}


def _licences(about: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Licences by the package's own words; some give a name, some classifiers, some the whole text, some nothing."""
    expression = about.get("license_expression")
    named = [text for text in about.get("classifier", []) if text.startswith(TROVE)]
    short = about.get("license", "").strip()
    if expression:
        yield {"expression": expression}
    elif named:
        yield from ({"license": {"name": name}} for name in sorted(text.rpartition(" :: ")[2] for text in named))
    elif short:
        yield {"license": {"name": short.splitlines()[0]}}


def _needed(name: str) -> Iterator[str]:
    for requirement in map(Requirement, requires(name) or []):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield canonicalize_name(requirement.name)


if __name__ == "__main__":
    texts = [(ENVS / name).read_text("utf-8") for name in ("lock.txt", "requirements.in")]
    project = tomllib.loads((ENVS.parent / "pyproject.toml").read_text("utf-8"))
    content = bill(texts[0], project, texts[1])
    (ENVS / "sbom.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
