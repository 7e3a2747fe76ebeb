"""Look for the known periods of waves in the heads of a model, and of its random weights."""

import pandas as pd

from laglens.calibration.detection import detect
from laglens.calibration.heads import choose_heads
from laglens.calibration.series import drawn, wave_series
from laglens.job import job
from laglens.models.registry import pick_device, restore_model
from laglens.models.untrained import untrained_model
from laglens.store import read_card, read_weights, write_table

with job() as snakemake:
    spec, card = snakemake.params.spec, read_card(snakemake.input.card)
    weights, device, seed = read_weights(snakemake.input.weights), pick_device(spec["device"]), spec["seed"]
    models = {"trained": restore_model(card, weights), "random": untrained_model(card, weights, seed=seed)}
    found = []
    for name, n in {"trained": spec["series"], "random": spec["untrained"]}.items():
        model = models[name].to(device)
        heads, white = choose_heads(model, seed=seed, device=device)
        options = {"heads": heads, "white": white, "controls": spec["controls"]}
        for kind in spec["waves"]:
            series, periods = wave_series(kind, n, model.history + model.horizon, drawn(seed, kind, "testing"))
            table = detect(model, series, periods, **options, seed=seed, device=device, label=kind)
            found.append(table.assign(weights=name, kind=kind))
    write_table(pd.concat(found), snakemake.output.table)
