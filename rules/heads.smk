rule measure_heads:
    input:
        time="results/time/{model}/{signal}.zarr.zip",
    output:
        heads="results/heads/{model}/{signal}.zarr.zip",
        table=table_of("heads/{model}/{signal}", "measures"),
    log:
        "logs/measure_heads/{model}/{signal}.log",
    benchmark:
        "logs/measure_heads/{model}/{signal}.tsv"
    priority: 5
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        spec=spec(window="heads.window", top_keys="heads.top_keys"),
        code=code("measure_heads"),
    message:
        "Measuring the heads of {wildcards.model} on {wildcards.signal}"
    script:
        "../scripts/measure_heads.py"


rule classify_heads:
    input:
        heads="results/heads/{model}/{signal}.zarr.zip",
        verdicts=verdicts,
    output:
        table=table_of("heads/{model}/{signal}.classes", "classes"),
    log:
        "logs/classify_heads/{model}/{signal}.log",
    benchmark:
        "logs/classify_heads/{model}/{signal}.tsv"
    priority: 4
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        spec=spec(),
        code=code("classify_heads"),
    message:
        "Naming the heads of {wildcards.model} on {wildcards.signal}"
    script:
        "../scripts/classify_heads.py"
