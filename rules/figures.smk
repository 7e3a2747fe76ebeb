rule draw_run:
    input:
        time="results/time/{model}/{signal}.zarr.zip",
        lags="results/lags/{model}/{signal}.zarr.zip",
        curves="results/lags/{model}/{signal}.input.zarr.zip",
        flow="results/flow/{model}/{signal}.zarr.zip",
        similarity="results/heads/{model}/{signal}.similarity.zarr.zip",
    output:
        head_sheet=reported(
            "{model}/{signal}/head_sheet", "head_sheet", signal="{signal}"
        ),
        mosaic=reported("{model}/{signal}/mosaic", "mosaic", signal="{signal}"),
        lag_strip=reported("{model}/{signal}/lag_strip", "lag_strip", signal="{signal}"),
        flow=reported("{model}/{signal}/flow", "flow", signal="{signal}"),
        arcs=reported("{model}/{signal}/arcs", "arcs", signal="{signal}"),
        similarity=reported(
            "{model}/{signal}/similarity", "similarity", signal="{signal}"
        ),
    log:
        "logs/draw_run/{model}/{signal}.log",
    benchmark:
        "logs/draw_run/{model}/{signal}.tsv"
    priority: 100
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=grown(2000),
        runtime=grown(10),
    params:
        spec=spec(figures="figures", heads="models.{model}.drawn_heads"),
        code=code("draw_run"),
    message:
        "Drawing {wildcards.model} on {wildcards.signal}"
    script:
        "../scripts/draw_run.py"


rule draw_evidence:
    input:
        verdicts="results/lags/{model}/{signal}.verdicts.csv",
        knock_out="results/attribution/{model}/{signal}.knock_out.zarr.zip",
        knock_out_table="results/attribution/{model}/{signal}.knock_out.csv",
        attribution="results/attribution/{model}/{signal}.zarr.zip",
        compared="results/attribution/{model}/{signal}.compared.zarr.zip",
        time="results/time/{model}/{signal}.zarr.zip",
    output:
        verdicts=reported("{model}/{signal}/verdicts", "verdicts", signal="{signal}"),
        knock_out=reported("{model}/{signal}/knock_out", "knock_out", signal="{signal}"),
        agreement=reported("{model}/{signal}/agreement", "agreement", signal="{signal}"),
        density=reported("{model}/{signal}/density", "density", signal="{signal}"),
        forecasts=reported("{model}/{signal}/forecasts", "forecasts", signal="{signal}"),
        explanations=reported(
            "{model}/{signal}/explanations", "explanations", signal="{signal}"
        ),
    log:
        "logs/draw_evidence/{model}/{signal}.log",
    benchmark:
        "logs/draw_evidence/{model}/{signal}.tsv"
    priority: 100
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=grown(1000),
        runtime=grown(10),
    params:
        spec=spec(
            confidence="lags.confidence", window="figures.window", dpi="figures.dpi"
        ),
        code=code("draw_evidence"),
    message:
        "Drawing what the attention of {wildcards.model} on {wildcards.signal} amounts to"
    script:
        "../scripts/draw_evidence.py"


rule draw_alignment:
    input:
        time="results/time/{model}/{signal}.zarr.zip",
    output:
        figure=reported("{model}/{signal}/alignment", "alignment", signal="{signal}"),
    log:
        "logs/draw_alignment/{model}/{signal}.log",
    benchmark:
        "logs/draw_alignment/{model}/{signal}.tsv"
    priority: 100
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=grown(2000),
        runtime=grown(10),
    params:
        spec=spec(figures="figures"),
        code=code("draw_alignment"),
    message:
        "Drawing what the forecast of {wildcards.model} reads on {wildcards.signal}"
    script:
        "../scripts/draw_alignment.py"


rule draw_events:
    input:
        events="results/heads/{model}/{signal}.events.zarr.zip",
        table="results/heads/{model}/{signal}.events.csv",
    output:
        figure=reported("{model}/{signal}/events", "events", signal="{signal}"),
    log:
        "logs/draw_events/{model}/{signal}.log",
    benchmark:
        "logs/draw_events/{model}/{signal}.tsv"
    priority: 100
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=grown(1000),
        runtime=grown(10),
    params:
        spec=spec(confidence="lags.confidence", part="figures.part", dpi="figures.dpi"),
        code=code("draw_events"),
    message:
        "Drawing the attention of {wildcards.model} to events of {wildcards.signal}"
    script:
        "../scripts/draw_events.py"


rule draw_class_token:
    input:
        seen="results/heads/{model}/{signal}.cls.zarr.zip",
    output:
        figure=reported(
            "{model}/{signal}/class_token", "class_token", signal="{signal}"
        ),
    log:
        "logs/draw_class_token/{model}/{signal}.log",
    benchmark:
        "logs/draw_class_token/{model}/{signal}.tsv"
    priority: 100
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=grown(1000),
        runtime=grown(10),
    params:
        spec=spec(
            heads="models.{model}.drawn_heads",
            window="figures.window",
            dpi="figures.dpi",
        ),
        code=code("draw_class_token"),
    message:
        "Drawing the class token of {wildcards.model} on {wildcards.signal}"
    script:
        "../scripts/draw_class_token.py"


rule draw_model:
    input:
        heads=signals_of("results/heads/{model}/{signal}.csv"),
    output:
        figure=reported("{model}/layers", "layers"),
    log:
        "logs/draw_model/{model}.log",
    benchmark:
        "logs/draw_model/{model}.tsv"
    priority: 100
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=grown(1000),
        runtime=grown(10),
    params:
        spec=spec(dpi="figures.dpi"),
        code=code("draw_model"),
    message:
        "Drawing the layers of {wildcards.model}"
    script:
        "../scripts/draw_model.py"


rule draw_distribution:
    input:
        heads=of_distribution("results/heads/{model}/{signal}.csv"),
    output:
        figure=reported(
            "distributions/{distribution}", "distribution", "{distribution}"
        ),
    log:
        "logs/draw_distribution/{distribution}.log",
    benchmark:
        "logs/draw_distribution/{distribution}.tsv"
    priority: 100
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=grown(1000),
        runtime=grown(10),
    params:
        spec=spec(untrained="distributions.{distribution}.untrained", dpi="figures.dpi"),
        code=code("draw_distribution"),
    message:
        "Drawing the layers of {wildcards.distribution}, by kind of series"
    script:
        "../scripts/draw_distribution.py"


rule draw_tracking:
    input:
        tracking="results/lags/{fit}.tracking.zarr.zip",
        swap="results/lags/{fit}.swap.zarr.zip",
    output:
        figure=reported("{fit}/tracking", "tracking", "{fit}"),
    log:
        "logs/draw_tracking/{fit}.log",
    benchmark:
        "logs/draw_tracking/{fit}.tsv"
    wildcard_constraints:
        fit=f"{NAME}(/{NAME})?",
    priority: 100
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=grown(1000),
        runtime=grown(10),
    params:
        spec=spec(confidence="lags.confidence", dpi="figures.dpi"),
        code=code("draw_tracking"),
    message:
        "Drawing which heads of {wildcards.fit} follow periods"
    script:
        "../scripts/draw_tracking.py"


rule draw_comparison:
    input:
        comparison="results/comparisons/{comparison}.zarr.zip",
        time_a=compared(0),
        time_b=compared(1),
    output:
        figure=reported("comparisons/{comparison}", "comparison", "{comparison}"),
    log:
        "logs/draw_comparison/{comparison}.log",
    benchmark:
        "logs/draw_comparison/{comparison}.tsv"
    priority: 100
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=grown(2000),
        runtime=grown(10),
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
        figure=reported("{fit}/training", "training", "{fit}"),
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
        mem_mb=grown(1000),
        runtime=grown(10),
    params:
        spec=spec(dpi="figures.dpi"),
        code=code("draw_training"),
    message:
        "Drawing the training of {wildcards.fit}"
    script:
        "../scripts/draw_training.py"
