rule reduce_to_time:
    input:
        attention="results/attention/{model}/{signal}.zarr.zip",
    output:
        time=kept("time", "results/time/{model}/{signal}.zarr.zip"),
    log:
        "logs/reduce_to_time/{model}/{signal}.log",
    benchmark:
        "logs/reduce_to_time/{model}/{signal}.tsv"
    priority: 70
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=grown(3000),
        runtime=grown(20),
    params:
        spec=spec(normalisation="time.normalisation"),
        code=code("reduce_to_time"),
    message:
        "Reducing the attention of {wildcards.model} on {wildcards.signal} to time"
    script:
        "../scripts/reduce_to_time.py"


rule capture_controls:
    input:
        control="results/signals/{signal}.ar1.zarr.zip",
        weights=fitted(".safetensors"),
        card=fitted(".json"),
    output:
        time=kept("time", "results/time/{model}/{signal}.ar1.zarr.zip"),
    log:
        "logs/capture_controls/{model}/{signal}.log",
    benchmark:
        "logs/capture_controls/{model}/{signal}.tsv"
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
            device="device",
            versions=True,
        ),
        code=model_code("capture_controls"),
    message:
        "Running {wildcards.model} on noise like the signal {wildcards.signal}"
    script:
        "../scripts/capture_controls.py"


rule capture_untrained:
    input:
        signal="results/signals/{signal}.zarr.zip",
        weights=fitted(".safetensors"),
        card=fitted(".json"),
    output:
        time=kept("time", "results/time/{model}/{signal}.untrained.zarr.zip"),
    log:
        "logs/capture_untrained/{model}/{signal}.log",
    benchmark:
        "logs/capture_untrained/{model}/{signal}.tsv"
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
            normalisation="time.normalisation",
            draws="lags.untrained",
            seed="seed",
            device="device",
            versions=True,
        ),
        code=model_code("capture_untrained"),
    message:
        "Running {wildcards.signal} through {wildcards.model} with random weights"
    script:
        "../scripts/capture_untrained.py"


rule capture_probes:
    input:
        weights="results/models/{fit}.safetensors",
        card="results/models/{fit}.json",
    output:
        swap=kept("time", "results/time/{fit}.swap.zarr.zip"),
        white=kept("time", "results/time/{fit}.white.zarr.zip"),
    log:
        "logs/capture_probes/{fit}.log",
    benchmark:
        "logs/capture_probes/{fit}.tsv"
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
            normalisation="time.normalisation",
            periods="lags.swap_periods",
            inputs="lags.swap_inputs",
            noises="lags.noises",
            seed="seed",
            device="device",
            versions=True,
        ),
        code=fit_code("capture_probes"),
    message:
        "Running {wildcards.fit} on waves of swapped periods and on noise"
    script:
        "../scripts/capture_probes.py"
