rule draw_run:
    input:
        time="results/time/{model}/{signal}.zarr.zip",
        lags="results/lags/{model}/{signal}.zarr.zip",
    output:
        head_sheet=figure("{model}/{signal}/head_sheet"),
        mosaic=figure("{model}/{signal}/mosaic"),
        lag_strip=figure("{model}/{signal}/lag_strip"),
    log:
        "logs/draw_run/{model}/{signal}.log",
    benchmark:
        "logs/draw_run/{model}/{signal}.tsv"
    priority: 100
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        spec=spec(figures="figures", heads="models.{model}.drawn_heads"),
        code=code("draw_run"),
    message:
        "Drawing {wildcards.model} on {wildcards.signal}"
    script:
        "../scripts/draw_run.py"


rule draw_comparison:
    input:
        comparison="results/comparisons/{comparison}.zarr.zip",
        time_a=compared(0),
        time_b=compared(1),
    output:
        figure=figure("comparisons/{comparison}"),
    log:
        "logs/draw_comparison/{comparison}.log",
    benchmark:
        "logs/draw_comparison/{comparison}.tsv"
    priority: 100
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        spec=spec(
            figures="figures",
            heads="comparisons.{comparison}.drawn_heads",
            model="comparisons.{comparison}.model",
        ),
        code=code("draw_comparison"),
    message:
        "Drawing the comparison {wildcards.comparison}"
    script:
        "../scripts/draw_comparison.py"


rule draw_training:
    input:
        curve="results/models/{fit}.csv",
        card="results/models/{fit}.json",
    output:
        figure=figure("{fit}/training"),
    log:
        "logs/draw_training/{fit}.log",
    benchmark:
        "logs/draw_training/{fit}.tsv"
    wildcard_constraints:
        fit=f"{NAME}(/{NAME})?",
    priority: 100
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        spec=spec(dpi="figures.dpi"),
        code=code("draw_training"),
    message:
        "Drawing the training of {wildcards.fit}"
    script:
        "../scripts/draw_training.py"
