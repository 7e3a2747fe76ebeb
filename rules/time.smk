rule reduce_to_time:
    input:
        attention="results/attention/{model}/{signal}.zarr.zip",
    output:
        time="results/time/{model}/{signal}.zarr.zip",
    log:
        "logs/reduce_to_time/{model}/{signal}.log",
    benchmark:
        "logs/reduce_to_time/{model}/{signal}.tsv"
    priority: 70
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=20,
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
        time="results/time/{model}/{signal}.ar1.zarr.zip",
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
        mem_mb=int(2000 + 1000 * STUDY.attention.memory_gb),
        runtime=60,
    params:
        spec=spec(
            windows="attention.windows",
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
