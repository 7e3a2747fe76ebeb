"""The checked study, and the functions that the rules of all stages share."""

from functools import cache
from types import SimpleNamespace

from laglens import launch
from laglens.config.load import canonical
from laglens.config.adapters import LOADED as LOADED_ARCHITECTURES
from laglens.config.generators import GENERATORS_WITH_EVENTS
from laglens.config.models import PER_SIGNAL
from laglens.models.architectures import (
    PACKAGES,
    WITH_CLASS_TOKEN,
    WITH_CROSS_ATTENTION,
    module_and_class,
)
from laglens.provenance import code_hashes, module_hashes, package_versions, select

NAME = "[A-Za-z0-9][A-Za-z0-9_-]*"


wildcard_constraints:
    signal=NAME,
    model=NAME,
    comparison=NAME,
    distribution=NAME,


STUDY = launch.read_study(config, [str(file) for file in workflow.configfiles])
SETTINGS = canonical(STUDY)
# Packages whose version changes what a model computes.
VERSIONS = package_versions(["numpy", "timm", "torch"])
VERSIONS_OF = {
    name: VERSIONS | package_versions(PACKAGES.get(m.architecture, ()))
    for name, m in STUDY.models.items()
}
SHIPPED_WEIGHTS = SOURCE / "laglens" / "weights"
TRAINED_ONCE = {
    name for name, m in STUDY.models.items() if m.architecture not in PER_SIGNAL
}
SHIPPED = {
    name
    for name in TRAINED_ONCE
    if getattr(STUDY.models[name], "weights", None) == "shipped"
    and (SHIPPED_WEIGHTS / f"{name}.safetensors").is_file()
}
RECORDED = {name for name, m in STUDY.models.items() if m.architecture == "recording"}
LOADED = {
    name for name, m in STUDY.models.items() if m.architecture in LOADED_ARCHITECTURES
}
# A recording has no model to run, and an image classifier no forecast to explain.
FORECASTING = {
    name for name, m in STUDY.models.items() if name not in RECORDED and m.horizon != 0
}
# Models whose forecast reads the history through cross-attention.
CROSSED = {
    name for name, m in STUDY.models.items() if m.architecture in WITH_CROSS_ATTENTION
}
# Image models, whose class token may look at the picture.
SEEING = {
    name
    for name, m in STUDY.models.items()
    if m.architecture.partition(":")[0] in WITH_CLASS_TOKEN
}
# Signals whose generator knows when something happened.
EVENTFUL = {
    name
    for name, signal in STUDY.signals.items()
    if getattr(signal, "generator", None) in GENERATORS_WITH_EVENTS
}
# Tables of several series, each of which is asked about on its own.
PANELS = {
    name for name, signal in STUDY.signals.items() if getattr(signal, "is_panel", False)
}
FORMATS = list(dict.fromkeys(STUDY.figures.formats))
launch.run_from(SOURCE)


def spec(versions=False, **paths):
    """Params: the settings a script reads, and no others, by name (see laglens.provenance.select)."""

    def settings_of_job(wildcards):
        settings = select(SETTINGS, paths, wildcards)
        if versions:
            name = wildcards.get("model") or wildcards.fit.split("/")[0]
            settings["versions"] = VERSIONS_OF[name]
        return settings

    return settings_of_job


# Snakemake asks for the params of every job by itself; of thousands, most have the same code.
@cache
def code(script):
    """Params: digests of a script and of every module that it reaches."""
    return code_hashes(ROOT / "scripts" / f"{script}.py", SOURCE)


def model_code(script):
    """Params: the digests of `code`, and of what is loaded by name: the model's architecture, a person's own files."""

    @cache
    def of_model(name):
        model = STUDY.models[name]
        place = module_and_class(model.architecture)[0]
        return code(script) | module_hashes(place, SOURCE) | launch.own_code(model)

    return lambda wildcards: of_model(wildcards.model)


def fit_code(script):
    """Params: as `model_code`, for rules whose wildcard is `fit`."""
    digests = model_code(script)

    def of_fit(wildcards):
        return digests(SimpleNamespace(model=wildcards.fit.split("/")[0]))

    return of_fit


def one_of(names):
    """Wildcard constraint: one of the names, or nothing at all."""
    return "|".join(sorted(names)) or "(?!)"


def gpu(wildcards):
    """Resources: GPUs of a job that runs a model.

    None on a machine without one, where the profile's limit would only make such jobs wait for each other.
    """
    elsewhere = not workflow.local_exec
    return int(STUDY.device != "cpu" and (elsewhere or launch.has_gpu()))


def grown(amount):
    """Resources: memory in MB or minutes, twice as much at every further attempt.

    For a scheduler that ends a job at its limits and a profile with retries; here jobs have one attempt and no limit.
    """

    def at(wildcards, attempt):
        return int(amount * 2 ** (attempt - 1))

    return at


# `local`: files of a person or of the repository are on this machine, even where a storage plugin keeps the results.
def table(wildcards):
    """Input: the file that a signal is read from, for signals that are."""
    file = getattr(STUDY.signals[wildcards.signal], "file", None)
    return local(file) if file else []


def shipped(suffix):
    """Input: a shipped file. Relative where it can be: in another folder an absolute name would be a new one."""
    folder = SHIPPED_WEIGHTS
    if folder.is_relative_to(Path.cwd()):
        folder = folder.relative_to(Path.cwd())
    return local(f"{folder.as_posix()}/{{model}}{suffix}")


def checkpoint_files(wildcards):
    """Input: the files that a model of others is read from."""
    return [
        local(file) for file in launch.checkpoint_files(STUDY.models[wildcards.model])
    ]


def recording(wildcards):
    """Input: what was recorded in another environment; where it is not yet, the job says so."""
    folder = STUDY.models[wildcards.model].folder
    path = Path(folder, f"{wildcards.signal}.npz")
    return local(path.as_posix()) if path.is_file() else []


def fit_of(model, signal):
    """What was trained: a model, or a model for one signal."""
    return model if model in TRAINED_ONCE else f"{model}/{signal}"


def followed(what):
    """Input: which heads of a model follow periods."""

    def path(wildcards):
        fit = fit_of(wildcards.model, wildcards.signal)
        return f"results/lags/{fit}.{what}.zarr.zip"

    return path


def stretch_probe(wildcards):
    """Input: what stretching shows of a model whatever the signal."""
    fit = fit_of(wildcards.model, wildcards.signal)
    return f"results/lags/{fit}.stretch.zarr.zip"


def stretched(wildcards):
    """Input: periods by stretching the signal in time, where the study asks for them."""
    path = f"results/lags/{wildcards.model}/{wildcards.signal}.stretched.zarr.zip"
    return path if STUDY.lags.stretch else []


def fitted(suffix):
    """Input: a file of the trained model."""

    def path(wildcards):
        return f"results/models/{fit_of(wildcards.model, wildcards.signal)}{suffix}"

    return path


def verdicts(wildcards):
    """Input: which heads follow a period of the signal, for models that forecast."""
    path = f"results/lags/{wildcards.model}/{wildcards.signal}.verdicts.csv"
    return path if wildcards.model in FORECASTING else []


def kept(stage, path):
    """Output: a cube of the stage, removed after its last consumer where the study does not keep it."""
    return path if getattr(STUDY, stage).keep else temp(path)


def compared(place, suffix=".zarr.zip"):
    """Input: time maps of the first or the second signal of a comparison."""

    def path(wildcards):
        comparison = STUDY.comparisons[wildcards.comparison]
        return f"results/time/{comparison.model}/{comparison.signals[place]}{suffix}"

    return path


def signals_of(path):
    """Input: a result of a model on each of its signals, sorted: their order in the config is no reason to run."""

    def paths(wildcards):
        signals = sorted(s for model, s in STUDY.pairs if model == wildcards.model)
        return [path.format(model=wildcards.model, signal=signal) for signal in signals]

    return paths


def figure(path):
    """Output: one figure in every format of the study."""
    return [f"results/figures/{path}.{suffix}" for suffix in FORMATS]


def of_runs(path, models=None, signals=None):
    """Input: a result of every run, sorted: the order of a config is no reason to run anything again."""
    return [
        f"results/{path}".format(model=model, signal=signal)
        for model, signal in sorted(STUDY.pairs)
        if models is None or model in models
        if signals is None or signal in signals
    ]


def of_claims(stage, suffix):
    """Input: a result of the model on every signal of the claims."""
    return [
        f"results/{stage}/{{model}}/{signal}{suffix}" for signal in STUDY.claims.signals
    ]


def distribution_runs(name):
    """Group, seed, model and signal of every model of a comparison of distributions."""
    study = STUDY.distributions[name]
    for group in ("trained", "untrained"):
        for seed, model in enumerate(getattr(study, group)):
            for signal in study.signals:
                yield group, seed, model, signal


def of_distribution(path, only=None):
    """Input: one file for every model and signal of a comparison of distributions."""

    def paths(wildcards):
        runs = distribution_runs(wildcards.distribution)
        return [
            path.format(model=m, signal=s)
            for _, _, m, s in runs
            if only is None or s in only
        ]

    return paths
