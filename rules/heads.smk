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
    priority: 80
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=grown(2000),
        runtime=grown(10),
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
        mem_mb=grown(1000),
        runtime=grown(5),
    params:
        spec=spec(),
        code=code("classify_heads"),
    message:
        "Naming the heads of {wildcards.model} on {wildcards.signal}"
    script:
        "../scripts/classify_heads.py"


rule compare_heads:
    input:
        time="results/time/{model}/{signal}.zarr.zip",
        heads="results/heads/{model}/{signal}.zarr.zip",
    output:
        similarity="results/heads/{model}/{signal}.similarity.zarr.zip",
        table=table_of("heads/{model}/{signal}.similarity", "similarity"),
        layers=table_of("heads/{model}/{signal}.layers", "layers"),
    log:
        "logs/compare_heads/{model}/{signal}.log",
    benchmark:
        "logs/compare_heads/{model}/{signal}.tsv"
    priority: 80
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=grown(2000),
        runtime=grown(20),
    params:
        spec=spec(),
        code=code("compare_heads"),
    message:
        "Comparing the heads of {wildcards.model} on {wildcards.signal}"
    script:
        "../scripts/compare_heads.py"


rule align_heads:
    input:
        time="results/time/{model}/{signal}.zarr.zip",
    output:
        alignment="results/heads/{model}/{signal}.alignment.zarr.zip",
        table=table_of("heads/{model}/{signal}.alignment", "alignment"),
    log:
        "logs/align_heads/{model}/{signal}.log",
    benchmark:
        "logs/align_heads/{model}/{signal}.tsv"
    priority: 4
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=grown(2000),
        runtime=grown(20),
    params:
        spec=spec(),
        code=code("align_heads"),
    message:
        "Aligning the forecast steps of {wildcards.model} on {wildcards.signal}"
    script:
        "../scripts/align_heads.py"


rule lock_events:
    input:
        time="results/time/{model}/{signal}.zarr.zip",
    output:
        events="results/heads/{model}/{signal}.events.zarr.zip",
        table=table_of("heads/{model}/{signal}.events", "events"),
    log:
        "logs/lock_events/{model}/{signal}.log",
    benchmark:
        "logs/lock_events/{model}/{signal}.tsv"
    priority: 4
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=grown(2000),
        runtime=grown(20),
    params:
        spec=spec(confidence="lags.confidence", seed="seed"),
        code=code("lock_events"),
    message:
        "Locking attention to events, {wildcards.model} on {wildcards.signal}"
    script:
        "../scripts/lock_events.py"


rule measure_importance:
    input:
        time="results/time/{model}/{signal}.zarr.zip",
        weights=fitted(".safetensors"),
        card=fitted(".json"),
    output:
        importance="results/heads/{model}/{signal}.importance.zarr.zip",
        table=table_of("heads/{model}/{signal}.importance", "importance"),
    log:
        "logs/measure_importance/{model}/{signal}.log",
    benchmark:
        "logs/measure_importance/{model}/{signal}.tsv"
    priority: 4
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        gpu=gpu,
        mem_mb=grown(4000),
        runtime=grown(60),
    params:
        spec=spec(device="device", versions=True),
        code=model_code("measure_importance"),
    message:
        "Weighing the heads of {wildcards.model} on {wildcards.signal}"
    script:
        "../scripts/measure_importance.py"


rule read_class_token:
    input:
        time="results/time/{model}/{signal}.zarr.zip",
        weights=fitted(".safetensors"),
        card=fitted(".json"),
    output:
        seen="results/heads/{model}/{signal}.cls.zarr.zip",
        table=table_of("heads/{model}/{signal}.cls", "class token"),
    log:
        "logs/read_class_token/{model}/{signal}.log",
    benchmark:
        "logs/read_class_token/{model}/{signal}.tsv"
    wildcard_constraints:
        model=one_of(set(STUDY.models) - RECORDED),
    priority: 4
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        gpu=gpu,
        mem_mb=grown(1500 + 1000 * STUDY.attention.memory_gb),
        runtime=grown(30),
    params:
        spec=spec(memory_gb="attention.memory_gb", device="device", versions=True),
        code=model_code("read_class_token"),
    message:
        "Reading the class token of {wildcards.model} on {wildcards.signal}"
    script:
        "../scripts/read_class_token.py"


rule capture_vectors:
    input:
        time="results/time/{model}/{signal}.zarr.zip",
        peaks="results/lags/{model}/{signal}.csv",
        verdicts=verdicts,
        weights=fitted(".safetensors"),
        card=fitted(".json"),
    output:
        vectors="results/heads/{model}/{signal}.vectors.zarr.zip",
    log:
        "logs/capture_vectors/{model}/{signal}.log",
    benchmark:
        "logs/capture_vectors/{model}/{signal}.tsv"
    wildcard_constraints:
        model=one_of(set(STUDY.models) - RECORDED),
    priority: 85
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=grown(4000),
        runtime=grown(20),
    params:
        spec=spec(
            heads="heads.vectors",
            window="report.window",
            versions=True,
        ),
        code=model_code("capture_vectors"),
    message:
        "Keeping queries and keys of {wildcards.model} on {wildcards.signal}"
    script:
        "../scripts/capture_vectors.py"


rule compare_distributions:
    input:
        signals=of_distribution("results/signals/{signal}.zarr.zip"),
        heads=of_distribution("results/heads/{model}/{signal}.csv"),
        events=of_distribution("results/heads/{model}/{signal}.events.csv", EVENTFUL),
        cards=of_distribution("results/models/{model}/{signal}.json"),
        curves=of_distribution("results/models/{model}/{signal}.csv"),
    output:
        values=table_of("distributions/{distribution}", "kinds of series"),
        answers=table_of(
            "distributions/{distribution}.answers", "kinds of series: answers"
        ),
        spread=table_of(
            "distributions/{distribution}.spread", "kinds of series: spread"
        ),
        events=table_of(
            "distributions/{distribution}.events", "kinds of series: events"
        ),
    log:
        "logs/compare_distributions/{distribution}.log",
    benchmark:
        "logs/compare_distributions/{distribution}.tsv"
    priority: 4
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=grown(1000),
        runtime=grown(10),
    params:
        spec=spec(
            distribution="distributions.{distribution}",
            confidence="lags.confidence",
        ),
        code=code("compare_distributions"),
    message:
        "Comparing kinds of series: {wildcards.distribution}"
    script:
        "../scripts/compare_distributions.py"
