rule export_windows:
    input:
        signal="results/signals/{signal}.zarr.zip",
        control="results/signals/{signal}.ar1.zarr.zip",
    output:
        windows="results/windows/{model}/{signal}.npz",
    log:
        "logs/export_windows/{model}/{signal}.log",
    benchmark:
        "logs/export_windows/{model}/{signal}.tsv"
    wildcard_constraints:
        model=one_of(RECORDED),
    priority: 50
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=grown(2000),
        runtime=grown(10),
    params:
        spec=spec(
            history="models.{model}.options.history",
            horizon="models.{model}.options.horizon",
            windows="attention.windows",
            per_series="attention.windows_per_series",
            statistics="attention.statistics",
        ),
        code=code("export_windows"),
    message:
        "Writing the windows of {wildcards.signal} for {wildcards.model}"
    script:
        "../scripts/export_windows.py"


rule import_recording:
    input:
        signal="results/signals/{signal}.zarr.zip",
        control="results/signals/{signal}.ar1.zarr.zip",
        windows="results/windows/{model}/{signal}.npz",
        recording=recording,
    output:
        attention=kept("attention", "results/attention/{model}/{signal}.zarr.zip"),
        controls=kept("time", "results/time/{model}/{signal}.ar1.zarr.zip"),
    log:
        "logs/import_recording/{model}/{signal}.log",
    benchmark:
        "logs/import_recording/{model}/{signal}.tsv"
    wildcard_constraints:
        model=one_of(RECORDED),
    priority: 60
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=grown(4000),
        runtime=grown(20),
    params:
        spec=spec(
            folder="models.{model}.folder",
            history="models.{model}.options.history",
            horizon="models.{model}.options.horizon",
            windows="attention.windows",
            per_series="attention.windows_per_series",
            normalisation="time.normalisation",
        ),
        code=code("import_recording"),
    message:
        "Taking the recorded attention of {wildcards.model} on {wildcards.signal}"
    script:
        "../scripts/import_recording.py"
