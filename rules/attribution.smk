rule attribute_forecast:
    input:
        time="results/time/{model}/{signal}.zarr.zip",
        flow="results/flow/{model}/{signal}.zarr.zip",
        weights=fitted(".safetensors"),
        card=fitted(".json"),
    output:
        attribution="results/attribution/{model}/{signal}.zarr.zip",
        table=table_of("attribution/{model}/{signal}", "agreement"),
        compared="results/attribution/{model}/{signal}.compared.zarr.zip",
        methods=table_of("attribution/{model}/{signal}.methods", "explanations"),
        pairs=table_of("attribution/{model}/{signal}.pairs", "explanations in pairs"),
        replaced=table_of("attribution/{model}/{signal}.replaced", "attention replaced"),
    log:
        "logs/attribute_forecast/{model}/{signal}.log",
    benchmark:
        "logs/attribute_forecast/{model}/{signal}.tsv"
    priority: 5
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        gpu=gpu,
        mem_mb=grown(4000),
        runtime=grown(30),
    params:
        spec=spec(
            methods="attribution.methods",
            step="attribution.step",
            window="attribution.window",
            points="attribution.points",
            shares="attribution.shares",
            relevance="attribution.relevance",
            replacements="attribution.replacements",
            draws="attribution.draws",
            by_head="attribution.by_head",
            confidence="lags.confidence",
            seed="seed",
            device="device",
            versions=True,
        ),
        code=model_code("attribute_forecast"),
    message:
        "Attributing the forecasts of {wildcards.model} on {wildcards.signal}"
    script:
        "../scripts/attribute_forecast.py"


rule knock_out:
    input:
        time="results/time/{model}/{signal}.zarr.zip",
        weights=fitted(".safetensors"),
        card=fitted(".json"),
    output:
        effects="results/attribution/{model}/{signal}.knock_out.zarr.zip",
        table=table_of("attribution/{model}/{signal}.knock_out", "knock-out"),
        heads=table_of(
            "attribution/{model}/{signal}.knock_out_heads", "knock-out, head by head"
        ),
    log:
        "logs/knock_out/{model}/{signal}.log",
    benchmark:
        "logs/knock_out/{model}/{signal}.tsv"
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
            half_width="attribution.half_width",
            confidence="lags.confidence",
            seed="seed",
            device="device",
            versions=True,
        ),
        code=model_code("knock_out"),
    message:
        "Cutting the attention of {wildcards.model} on {wildcards.signal}, lag by lag"
    script:
        "../scripts/knock_out.py"


rule rank_explanations:
    input:
        tables=[
            f"results/attribution/{model}/{signal}.methods.csv"
            for model, signal in STUDY.pairs
            if model in FORECASTING
        ],
    output:
        ranking=table_of("attribution/ranking", "ranking of explanations"),
    log:
        "logs/rank_explanations.log",
    benchmark:
        "logs/rank_explanations.tsv"
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=grown(1000),
        runtime=grown(5),
    params:
        spec=spec(confidence="lags.confidence"),
        code=code("rank_explanations"),
    message:
        "Ranking what explains the forecasts, over all runs"
    script:
        "../scripts/rank_explanations.py"
