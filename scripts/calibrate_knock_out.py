"""Cut the periods of waves, and of noise that has none, out of the attention of a model and of its random weights."""

import pandas as pd

from laglens.calibration.knock_outs import KINDS, knock_out_series
from laglens.job import job
from laglens.models.registry import pick_device, restore_model
from laglens.models.untrained import untrained_model
from laglens.store import read_card, read_weights, write_table

with job() as snakemake:
    spec, card = snakemake.params.spec, read_card(snakemake.input.card)
    weights, device, seed = read_weights(snakemake.input.weights), pick_device(spec["device"]), spec["seed"]
    models = {"trained": restore_model(card, weights), "random": untrained_model(card, weights, seed=seed)}
    options = {"seed": seed, "half_width": spec["half_width"], "device": device}
    found = [
        knock_out_series(model, kind, spec["series"], **options).assign(weights=name)
        for name, model in models.items()
        for kind in KINDS
    ]
    write_table(pd.concat(found), snakemake.output.table)
