"""Take one of two unrelated periods away, and see what a head still shows."""

from laglens.calibration.ablation import remove_periods
from laglens.job import job
from laglens.models.registry import pick_device, restore_model
from laglens.store import read_card, read_weights, write_table

with job() as snakemake:
    spec = snakemake.params.spec
    model = restore_model(read_card(snakemake.input.card), read_weights(snakemake.input.weights))
    device = pick_device(spec["device"])
    found = remove_periods(model.to(device), spec["pairs"], seed=spec["seed"], device=device)
    write_table(found, snakemake.output.table)
