rule make_signal:
    input:
        table=table,
    output:
        signal="results/signals/{signal}.zarr.zip",
    log:
        "logs/make_signal/{signal}.log",
    benchmark:
        "logs/make_signal/{signal}.tsv"
    priority: 20
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=grown(1000),
        runtime=grown(10),
    params:
        spec=spec(signal="signals.{signal}", seed="seed"),
        code=code("make_signal"),
    message:
        "Making the signal {wildcards.signal}"
    script:
        "../scripts/make_signal.py"


rule make_control:
    input:
        signal="results/signals/{signal}.zarr.zip",
    output:
        control="results/signals/{signal}.ar1.zarr.zip",
    log:
        "logs/make_control/{signal}.log",
    benchmark:
        "logs/make_control/{signal}.tsv"
    priority: 40
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=grown(2000),
        runtime=grown(10),
    params:
        spec=spec(replicates="lags.controls", seed="seed"),
        code=code("make_control"),
    message:
        "Making AR(1) noise like the signal {wildcards.signal}"
    script:
        "../scripts/make_control.py"
