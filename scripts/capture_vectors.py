"""Keep the query and key vectors of chosen heads in the window that the explorer shows."""

from laglens.heads.scores import chosen_heads
from laglens.heads.vectors import head_vectors
from laglens.job import job
from laglens.models.registry import restore_model
from laglens.store import opened_tree, read_card, read_table, read_weights, write_tree

with job() as snakemake:
    spec, card = snakemake.params.spec, read_card(snakemake.input.card)
    verdicts = snakemake.input.verdicts
    judged = read_table(verdicts, empty=True) if verdicts else None
    heads = chosen_heads(spec["heads"], read_table(snakemake.input.peaks, empty=True), judged)
    model = restore_model(card, read_weights(snakemake.input.weights))
    with opened_tree(snakemake.input.time) as time:
        vectors = head_vectors(
            model,
            time,
            heads,
            window=spec["window"],
            attrs={"model": card, "spec": spec, "versions": spec["versions"]},
        )
    write_tree(vectors, snakemake.output.vectors)
