rule provide_weights:
    input:
        weights=shipped(".safetensors"),
        card=shipped(".json"),
        curve=shipped(".csv"),
    output:
        weights="results/models/{model}.safetensors",
        card="results/models/{model}.json",
        curve="results/models/{model}.csv",
    log:
        "logs/provide_weights/{model}.log",
    benchmark:
        "logs/provide_weights/{model}.tsv"
    wildcard_constraints:
        model=one_of(SHIPPED),
    priority: 30
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=grown(1000),
        runtime=grown(5),
    params:
        spec=spec(),
        code=code("provide_weights"),
    message:
        "Taking the shipped weights of {wildcards.model}"
    script:
        "../scripts/provide_weights.py"


rule load_model:
    input:
        source=checkpoint_files,
    output:
        weights="results/models/{model}.safetensors",
        card="results/models/{model}.json",
    log:
        "logs/load_model/{model}.log",
    benchmark:
        "logs/load_model/{model}.tsv"
    wildcard_constraints:
        model=one_of(LOADED),
    priority: 30
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=grown(8000),
        runtime=grown(30),
    params:
        spec=spec(
            architecture="models.{model}.architecture",
            options="models.{model}.options",
            source="models.{model}.source",
            seed="models.{model}.seed",
            versions=True,
        ),
        code=model_code("load_model"),
    message:
        "Loading {wildcards.model}"
    script:
        "../scripts/load_model.py"


rule train_model:
    output:
        weights="results/models/{model}.safetensors",
        card="results/models/{model}.json",
        curve="results/models/{model}.csv",
    log:
        "logs/train_model/{model}.log",
    benchmark:
        "logs/train_model/{model}.tsv"
    wildcard_constraints:
        model=one_of(TRAINED_ONCE - SHIPPED - LOADED - RECORDED),
    priority: 10
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        gpu=gpu,
        mem_mb=grown(3000),
        runtime=grown(240),
    params:
        spec=spec(
            architecture="models.{model}.architecture",
            options="models.{model}.options",
            train="models.{model}.train",
            device="device",
            versions=True,
        ),
        code=model_code("train_model"),
    message:
        "Training {wildcards.model} on the synthetic mixture"
    script:
        "../scripts/train_model.py"


rule train_forecaster:
    input:
        signal="results/signals/{signal}.zarr.zip",
    output:
        weights="results/models/{model}/{signal}.safetensors",
        card="results/models/{model}/{signal}.json",
        curve="results/models/{model}/{signal}.csv",
    log:
        "logs/train_forecaster/{model}/{signal}.log",
    benchmark:
        "logs/train_forecaster/{model}/{signal}.tsv"
    wildcard_constraints:
        model=one_of(set(STUDY.models) - TRAINED_ONCE),
    priority: 10
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        gpu=gpu,
        mem_mb=grown(3000),
        runtime=grown(120),
    params:
        spec=spec(
            architecture="models.{model}.architecture",
            options="models.{model}.options",
            train="models.{model}.train",
            device="device",
            versions=True,
        ),
        code=model_code("train_forecaster"),
    message:
        "Training {wildcards.model} on the signal {wildcards.signal}"
    script:
        "../scripts/train_forecaster.py"
