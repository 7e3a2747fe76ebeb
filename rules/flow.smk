rule roll_out:
    input:
        time="results/time/{model}/{signal}.zarr.zip",
    output:
        flow="results/flow/{model}/{signal}.zarr.zip",
        table=table_of("flow/{model}/{signal}", "flow"),
    log:
        "logs/roll_out/{model}/{signal}.log",
    benchmark:
        "logs/roll_out/{model}/{signal}.tsv"
    priority: 80
    conda:
        "../envs/laglens.yaml"
    threads: 1
    resources:
        mem_mb=grown(2000),
        runtime=grown(10),
    params:
        spec=spec(
            fusion="flow.fusion",
            residual="flow.residual",
            discard="flow.discard",
            start="flow.start",
            maximum="flow.maximum",
            queries="flow.queries",
        ),
        code=code("roll_out"),
    message:
        "Rolling out the attention of {wildcards.model} on {wildcards.signal}"
    script:
        "../scripts/roll_out.py"
