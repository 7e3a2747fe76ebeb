rule measure_lags:
    input:
        time="results/time/{model}/{signal}.zarr.zip",
        control="results/time/{model}/{signal}.ar1.zarr.zip",
    output:
        lags="results/lags/{model}/{signal}.zarr.zip",
        table=table_of("lags/{model}/{signal}", "peaks"),
        curves="results/lags/{model}/{signal}.input.zarr.zip",
    log:
        "logs/measure_lags/{model}/{signal}.log",
    benchmark:
        "logs/measure_lags/{model}/{signal}.tsv"
    priority: 80
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=grown(3000),
        runtime=grown(20),
    params:
        spec=spec(max_lag="lags.max_lag", confidence="lags.confidence", seed="seed"),
        code=code("measure_lags"),
    message:
        "Measuring the lags of {wildcards.model} on {wildcards.signal}"
    script:
        "../scripts/measure_lags.py"


rule compare_signals:
    input:
        time_a=compared(0),
        control_a=compared(0, ".ar1.zarr.zip"),
        time_b=compared(1),
        control_b=compared(1, ".ar1.zarr.zip"),
    output:
        comparison="results/comparisons/{comparison}.zarr.zip",
        table=table_of("comparisons/{comparison}", "changes"),
    log:
        "logs/compare_signals/{comparison}.log",
    benchmark:
        "logs/compare_signals/{comparison}.tsv"
    priority: 90
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=grown(3000),
        runtime=grown(20),
    params:
        spec=spec(
            signals="comparisons.{comparison}.signals",
            max_lag="lags.max_lag",
            confidence="lags.confidence",
        ),
        code=code("compare_signals"),
    message:
        "Comparing the lags of the two signals of {wildcards.comparison}"
    script:
        "../scripts/compare_signals.py"


rule follow_periods:
    input:
        swap="results/time/{fit}.swap.zarr.zip",
        white="results/time/{fit}.white.zarr.zip",
    output:
        swap="results/lags/{fit}.swap.zarr.zip",
        tracking="results/lags/{fit}.tracking.zarr.zip",
        table=table_of("lags/{fit}.tracking", "tracking"),
    log:
        "logs/follow_periods/{fit}.log",
    benchmark:
        "logs/follow_periods/{fit}.tsv"
    wildcard_constraints:
        fit=f"{NAME}(/{NAME})?",
    priority: 80
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=grown(3000),
        runtime=grown(20),
    params:
        spec=spec(
            permutations="lags.permutations",
            confidence="lags.confidence",
            seed="seed",
        ),
        code=code("follow_periods"),
    message:
        "Testing which heads of {wildcards.fit} follow the period of their input"
    script:
        "../scripts/follow_periods.py"


rule test_lags:
    input:
        time="results/time/{model}/{signal}.zarr.zip",
        control="results/time/{model}/{signal}.ar1.zarr.zip",
        untrained="results/time/{model}/{signal}.untrained.zarr.zip",
        swap=followed("swap"),
        tracking=followed("tracking"),
        stretched=stretched,
    output:
        comb="results/lags/{model}/{signal}.verdicts.zarr.zip",
        table=table_of("lags/{model}/{signal}.verdicts", "verdicts"),
    log:
        "logs/test_lags/{model}/{signal}.log",
    benchmark:
        "logs/test_lags/{model}/{signal}.tsv"
    priority: 80
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=grown(3000),
        runtime=grown(20),
    params:
        spec=spec(confidence="lags.confidence", seed="seed"),
        code=code("test_lags"),
    message:
        "Judging the lags of {wildcards.model} on {wildcards.signal}"
    script:
        "../scripts/test_lags.py"


rule measure_series:
    input:
        signal="results/signals/{signal}.zarr.zip",
        control="results/signals/{signal}.ar1.zarr.zip",
        weights=fitted(".safetensors"),
        card=fitted(".json"),
    output:
        series="results/lags/{model}/{signal}.series.zarr.zip",
        table=table_of("lags/{model}/{signal}.series", "series"),
    log:
        "logs/measure_series/{model}/{signal}.log",
    benchmark:
        "logs/measure_series/{model}/{signal}.tsv"
    wildcard_constraints:
        model=one_of(set(STUDY.models) - RECORDED),
    priority: 60
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        gpu=gpu,
        mem_mb=grown(2000 + 1000 * STUDY.attention.memory_gb),
        runtime=grown(60),
    params:
        spec=spec(
            windows="attention.windows",
            per_series="attention.windows_per_series",
            memory_gb="attention.memory_gb",
            normalisation="time.normalisation",
            max_lag="lags.max_lag",
            controls="lags.series_controls",
            confidence="lags.confidence",
            device="device",
            versions=True,
        ),
        code=model_code("measure_series"),
    message:
        "Measuring the lags of {wildcards.model} on every series of {wildcards.signal}"
    script:
        "../scripts/measure_series.py"


rule stretch_probe:
    input:
        weights="results/models/{fit}.safetensors",
        card="results/models/{fit}.json",
    output:
        probe="results/lags/{fit}.stretch.zarr.zip",
    log:
        "logs/stretch_probe/{fit}.log",
    benchmark:
        "logs/stretch_probe/{fit}.tsv"
    wildcard_constraints:
        fit=f"{NAME}(/{NAME})?",
    priority: 60
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        gpu=gpu,
        mem_mb=grown(2000 + 1000 * STUDY.attention.memory_gb),
        runtime=grown(30),
    params:
        spec=spec(
            memory_gb="attention.memory_gb",
            noises="lags.noises",
            seed="seed",
            device="device",
            versions=True,
        ),
        code=fit_code("stretch_probe"),
    message:
        "Running {wildcards.fit} on noise and waves stretched in time"
    script:
        "../scripts/stretch_probe.py"


rule stretch_signal:
    input:
        signal="results/signals/{signal}.zarr.zip",
        probe=stretch_probe,
        weights=fitted(".safetensors"),
        card=fitted(".json"),
    output:
        periods="results/lags/{model}/{signal}.stretched.zarr.zip",
    log:
        "logs/stretch_signal/{model}/{signal}.log",
    benchmark:
        "logs/stretch_signal/{model}/{signal}.tsv"
    wildcard_constraints:
        model=one_of(set(STUDY.models) - RECORDED),
    priority: 60
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        gpu=gpu,
        mem_mb=grown(2000 + 1000 * STUDY.attention.memory_gb),
        runtime=grown(30),
    params:
        spec=spec(
            windows="attention.windows",
            per_series="attention.windows_per_series",
            memory_gb="attention.memory_gb",
            confidence="lags.confidence",
            seed="seed",
            device="device",
            versions=True,
        ),
        code=model_code("stretch_signal"),
    message:
        "Running {wildcards.model} on {wildcards.signal} stretched in time"
    script:
        "../scripts/stretch_signal.py"
