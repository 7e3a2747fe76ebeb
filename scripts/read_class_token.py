"""Say where the class token of an image model looks, on the picture and in time."""

from laglens.heads.class_token import read_class_attention
from laglens.heads.nothing import measure_or_empty
from laglens.heads.pictures import peak_positions
from laglens.job import job
from laglens.models.registry import pick_device, restore_model
from laglens.store import read_card, read_tree, read_weights, write_table, write_tree

with job() as snakemake:
    spec = snakemake.params.spec
    model = restore_model(read_card(snakemake.input.card), read_weights(snakemake.input.weights))
    time = read_tree(snakemake.input.time)
    options = {"memory_gb": spec["memory_gb"], "device": pick_device(spec["device"])}
    # The very windows whose attention was read.
    seen = measure_or_empty(time, read_class_attention, model, time.to_dataset(), **options)
    write_table(peak_positions(seen), snakemake.output.table)
    write_tree(seen, snakemake.output.seen)
