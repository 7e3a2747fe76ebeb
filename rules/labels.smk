# What is in the report of a study, and under which name.

CATEGORIES = {
    "verdicts": "1 Verdicts",
    "tracking": "1 Verdicts",
    "knock_out": "1 Verdicts",
    "lag_strip": "2 Lags",
    "head_sheet": "2 Lags",
    "mosaic": "2 Lags",
    "comparison": "3 Comparisons",
    "flow": "4 Flow and attribution",
    "arcs": "4 Flow and attribution",
    "agreement": "4 Flow and attribution",
    "density": "4 Flow and attribution",
    "explanations": "4 Flow and attribution",
    "alignment": "4 Flow and attribution",
    "forecasts": "4 Flow and attribution",
    "events": "2 Lags",
    "class_token": "4 Flow and attribution",
    "layers": "5 Models",
    "distribution": "5 Models",
    "similarity": "5 Models",
    "training": "5 Models",
}


def reported(path, kind, group="{model}", **labels):
    """Output: one figure in every format of the study; the PNG is in the report, its category that of its kind."""
    place = {
        "caption": Path(
            workflow.basedir, "rules", "captions", f"{kind}.rst"
        ).as_posix(),
        "category": CATEGORIES[kind],
        "subcategory": group,
        "labels": labels | {"figure": kind.replace("_", " ")},
    }
    # snakefmt takes a line that begins with the word for a directive of Snakemake's.
    return [report(x, **place) if x.endswith(".png") else x for x in figure(path)]


def in_front(path, what):
    """Output: a file of the whole study, first in the report."""
    return report(path, category="0 Start here", labels={"what": what})


def table_of(path, name):
    """Output: a table that people read, with its place in the report."""
    known = ("model", "signal", "fit", "comparison", "distribution")
    wildcards = [key for key in known if f"{{{key}}}" in path]
    labels = {key: f"{{{key}}}" for key in wildcards} | {"table": name}
    return report(
        f"results/{path}.csv",
        category="6 Tables",
        subcategory=f"{{{wildcards[0]}}}" if wildcards else "all runs",
        labels=labels,
    )
