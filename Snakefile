import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.20")

# A study given with --configfile replaces the default one; merged, their signals would mix.
if not workflow.overwrite_configfiles:

    configfile: "config.yaml"


ROOT = Path(workflow.basedir)
SOURCE = ROOT / "src"
sys.path.insert(0, str(SOURCE))


include: "rules/common.smk"
include: "rules/labels.smk"
include: "rules/targets.smk"
include: "rules/signals.smk"
include: "rules/models.smk"
include: "rules/attention.smk"
include: "rules/time.smk"
include: "rules/recordings.smk"
include: "rules/lags.smk"
include: "rules/heads.smk"
include: "rules/flow.smk"
include: "rules/attribution.smk"
include: "rules/figures.smk"
include: "rules/calibration.smk"
include: "rules/report.smk"


rule all:
    default_target: True
    input:
        *targets(),
    message:
        "Everything the study asks for is there"


rule windows:
    input:
        *exported(),
    message:
        "The windows of every model that runs in another environment are there"


rule claims:
    input:
        *claimed(),
    message:
        "What the models answer to the published claims is there"


rule calibration:
    input:
        *calibrated(),
    message:
        "The calibration of the models is there"


onstart:
    launch.spare_scheduler(workflow)
    print(
        launch.plan(job.rule.name for job in workflow.dag.needrun_jobs()),
        file=sys.stderr,
    )


onsuccess:
    print(launch.report(targets(), launch.elsewhere(workflow)), file=sys.stderr)


onerror:
    print(launch.apology(log), file=sys.stderr)
