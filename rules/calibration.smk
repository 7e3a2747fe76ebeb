"""Targets of their own: `snakemake calibration`, how often the tests are wrong and right, and `snakemake claims`."""


rule calibrate_noise:
    input:
        weights="results/models/{model}.safetensors",
        card="results/models/{model}.json",
    output:
        table="results/calibration/{model}/noise.csv",
    log:
        "logs/calibrate_noise/{model}.log",
    benchmark:
        "logs/calibrate_noise/{model}.tsv"
    priority: 5
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        gpu=gpu,
        mem_mb=grown(3000),
        runtime=grown(120),
    params:
        spec=spec(
            noises="calibration.noises",
            series="calibration.series",
            untrained="calibration.untrained",
            controls="calibration.controls",
            seed="calibration.seed",
            device="device",
            versions=True,
        ),
        code=model_code("calibrate_noise"),
    message:
        "Counting the false alarms of {wildcards.model}"
    script:
        "../scripts/calibrate_noise.py"


rule calibrate_waves:
    input:
        weights="results/models/{model}.safetensors",
        card="results/models/{model}.json",
    output:
        table="results/calibration/{model}/waves.csv",
    log:
        "logs/calibrate_waves/{model}.log",
    benchmark:
        "logs/calibrate_waves/{model}.tsv"
    priority: 5
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        gpu=gpu,
        mem_mb=grown(3000),
        runtime=grown(120),
    params:
        spec=spec(
            waves="calibration.waves",
            series="calibration.series",
            untrained="calibration.untrained",
            controls="calibration.controls",
            seed="calibration.seed",
            device="device",
            versions=True,
        ),
        code=model_code("calibrate_waves"),
    message:
        "Looking for known periods with {wildcards.model}"
    script:
        "../scripts/calibrate_waves.py"


rule calibrate_knock_out:
    input:
        weights="results/models/{model}.safetensors",
        card="results/models/{model}.json",
    output:
        table="results/calibration/{model}/knock_out.csv",
    log:
        "logs/calibrate_knock_out/{model}.log",
    benchmark:
        "logs/calibrate_knock_out/{model}.tsv"
    priority: 5
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        gpu=gpu,
        mem_mb=grown(3000),
        runtime=grown(60),
    params:
        spec=spec(
            series="calibration.series",
            half_width="attribution.half_width",
            seed="calibration.seed",
            device="device",
            versions=True,
        ),
        code=model_code("calibrate_knock_out"),
    message:
        "Cutting known periods out of {wildcards.model}"
    script:
        "../scripts/calibrate_knock_out.py"


rule summarise_calibration:
    input:
        noise=expand(
            "results/calibration/{model}/noise.csv", model=STUDY.calibration.models
        ),
        waves=expand(
            "results/calibration/{model}/waves.csv", model=STUDY.calibration.models
        ),
        knock_out=expand(
            "results/calibration/{model}/knock_out.csv", model=STUDY.calibration.models
        ),
    output:
        summary="results/calibration/summary.csv",
    log:
        "logs/summarise_calibration.log",
    benchmark:
        "logs/summarise_calibration.tsv"
    priority: 90
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=grown(1000),
        runtime=grown(10),
    params:
        spec=spec(models="calibration.models", confidence="lags.confidence"),
        code=code("summarise_calibration"),
    message:
        "Rates and effects of the calibrated models"
    script:
        "../scripts/summarise_calibration.py"


rule draw_calibration:
    input:
        summary="results/calibration/summary.csv",
    output:
        rates=figure("calibration/rates"),
        knock_outs=figure("calibration/knock_out"),
    log:
        "logs/draw_calibration.log",
    benchmark:
        "logs/draw_calibration.tsv"
    priority: 100
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=grown(1000),
        runtime=grown(10),
    params:
        spec=spec(dpi="figures.dpi"),
        code=code("draw_calibration"),
    message:
        "Drawing the calibration"
    script:
        "../scripts/draw_calibration.py"


rule remove_periods:
    input:
        weights="results/models/{model}.safetensors",
        card="results/models/{model}.json",
    output:
        table="results/claims/{model}.pairs.csv",
    log:
        "logs/remove_periods/{model}.log",
    benchmark:
        "logs/remove_periods/{model}.tsv"
    priority: 5
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        gpu=gpu,
        mem_mb=grown(3000),
        runtime=grown(60),
    params:
        spec=spec(
            pairs="claims.pairs",
            seed="calibration.seed",
            device="device",
            versions=True,
        ),
        code=model_code("remove_periods"),
    message:
        "Taking periods away from what {wildcards.model} sees"
    script:
        "../scripts/remove_periods.py"


rule ask_claims:
    input:
        lags=of_claims("lags", ".zarr.zip"),
        verdicts=of_claims("lags", ".verdicts.csv"),
        knock_outs=of_claims("attribution", ".knock_out.csv"),
        pairs="results/claims/{model}.pairs.csv",
    output:
        table="results/claims/{model}.csv",
    log:
        "logs/ask_claims/{model}.log",
    benchmark:
        "logs/ask_claims/{model}.tsv"
    priority: 90
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=grown(1000),
        runtime=grown(10),
    params:
        spec=spec(signals="claims.signals", period="claims.period"),
        code=code("ask_claims"),
    message:
        "What {wildcards.model} answers to the published claims"
    script:
        "../scripts/ask_claims.py"


rule draw_claims:
    input:
        tables=expand("results/claims/{model}.csv", model=STUDY.claims.models),
    output:
        table="results/claims/summary.csv",
        figure=figure("claims/claims"),
    log:
        "logs/draw_claims.log",
    benchmark:
        "logs/draw_claims.tsv"
    priority: 100
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=grown(1000),
        runtime=grown(10),
    params:
        spec=spec(signals="claims.signals", dpi="figures.dpi"),
        code=code("draw_claims"),
    message:
        "Drawing the claims"
    script:
        "../scripts/draw_claims.py"
