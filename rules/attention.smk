rule capture_attention:
    input:
        signal="results/signals/{signal}.zarr.zip",
        weights=fitted(".safetensors"),
        card=fitted(".json"),
    output:
        attention=kept("attention", "results/attention/{model}/{signal}.zarr.zip"),
    log:
        "logs/capture_attention/{model}/{signal}.log",
    benchmark:
        "logs/capture_attention/{model}/{signal}.tsv"
    wildcard_constraints:
        model=one_of(set(STUDY.models) - RECORDED),
    priority: 50
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        gpu=gpu,
        mem_mb=grown(1500 + 1000 * STUDY.attention.memory_gb),
        runtime=grown(30),
    params:
        spec=spec(
            windows="attention.windows",
            per_series="attention.windows_per_series",
            store="attention.store",
            dtype="attention.dtype",
            memory_gb="attention.memory_gb",
            statistics="attention.statistics",
            rollout="attention.rollout",
            device="device",
            versions=True,
        ),
        code=model_code("capture_attention"),
    message:
        "Capturing the attention of {wildcards.model} on the signal {wildcards.signal}"
    script:
        "../scripts/capture_attention.py"
