rule build_explorer:
    input:
        time=of_runs("time/{model}/{signal}.zarr.zip"),
        lags=of_runs("lags/{model}/{signal}.zarr.zip"),
        heads=of_runs("heads/{model}/{signal}.csv"),
        verdicts=of_runs("lags/{model}/{signal}.verdicts.csv", FORECASTING),
        effects=of_runs("attribution/{model}/{signal}.knock_out.zarr.zip", FORECASTING),
        cuts=of_runs("attribution/{model}/{signal}.knock_out.csv", FORECASTING),
        vectors=(
            of_runs(
                "heads/{model}/{signal}.vectors.zarr.zip", set(STUDY.models) - RECORDED
            )
            if STUDY.heads.vectors
            else []
        ),
    output:
        page=in_front("results/explorer.html", "explorer"),
    log:
        "logs/build_explorer.log",
    benchmark:
        "logs/build_explorer.tsv"
    priority: 90
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=grown(4000),
        runtime=grown(20),
    params:
        spec=spec(window="report.window", megabytes="report.megabytes"),
        code=code("build_explorer"),
        page=launch.page_digests(SOURCE),
    message:
        "Building the explorer"
    script:
        "../scripts/build_explorer.py"


rule summarise:
    input:
        lags=of_runs("lags/{model}/{signal}.zarr.zip"),
        verdicts=of_runs("lags/{model}/{signal}.verdicts.csv", FORECASTING),
        cuts=of_runs("attribution/{model}/{signal}.knock_out.csv", FORECASTING),
        series=of_runs("lags/{model}/{signal}.series.csv", FORECASTING, PANELS),
    output:
        table=in_front("results/summary.csv", "all verdicts as a table"),
        page=in_front("results/summary.html", "summary"),
    log:
        "logs/summarise.log",
    benchmark:
        "logs/summarise.tsv"
    priority: 90
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=grown(1000),
        runtime=grown(10),
    params:
        code=code("summarise"),
    message:
        "Summing up the verdicts"
    script:
        "../scripts/summarise.py"
